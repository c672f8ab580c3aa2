"""Files that are shipped to run Moretta: images, compose file, systemd units. No container engine is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moretta.deploy.cli.main import run as moretta

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
UNITS = ROOT / "deploy" / "systemd"
KINDS = ("server", "site")
EXPOSURE = 1.5
"""Highest level that `systemd-analyze security` may give: 10 is unprotected, below 2 it says OK."""


def _instructions(kind: str) -> list[tuple[str, str]]:
    text = (COMPOSE / f"Dockerfile.{kind}").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]  # type: ignore[misc]


def _words(text: str) -> list[str]:
    """Of the JSON form of CMD and ENTRYPOINT."""
    words: list[str] = yaml.safe_load(text[text.index("[") :])
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_copies_only_what_is_there_and_all_that_the_package_is_made_of(kind: str) -> None:
    copied = [
        w for name, rest in _instructions(kind) if name == "COPY" and "--from" not in rest for w in rest.split()[:-1]
    ]
    assert all((ROOT / path).exists() for path in copied), copied
    linked = {link.resolve().name for link in (ROOT / "src" / "moretta").iterdir() if link.is_symlink()}
    assert linked <= set(copied)
    allowed = {
        line[1:] for line in (COMPOSE / f"Dockerfile.{kind}.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert set(copied) == allowed


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_ends_as_another_user_than_root_and_starts_a_command_that_exists(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _instructions(kind)
    last = max(index for index, (name, _) in enumerate(made) if name == "FROM")
    final = dict(made[last:])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])
    assert [name for name, _ in made].count("HEALTHCHECK") == 1
    assert _words(final["ENTRYPOINT"]) == ["moretta"]
    for words in (_words(final["CMD"]), _words(final["HEALTHCHECK"])[1:]):
        group, command, *options = words
        assert moretta([group, command, "--help"]) == 0
        reported = capsys.readouterr().out
        assert all(option in reported for option in options if option.startswith("--")), options


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_has_no_rights_that_it_does_not_need(compose: Any, kind: str) -> None:
    service = compose["services"][kind]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == dict(_instructions(kind))["USER"]
    assert not {"privileged", "network_mode", "pid", "devices", "cap_add"} & service.keys()
    assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert "healthcheck" not in service  # the image has its own
    written = [v for v in service["volumes"] if not v.endswith(":ro")]
    assert written == [f"{kind}:/var/lib/moretta"]
    assert {v.split(":")[0] for v in written} <= compose["volumes"].keys()


def test_the_site_opens_no_port_and_the_server_one(compose: Any) -> None:
    assert "ports" not in compose["services"]["site"]
    assert compose["services"]["server"]["ports"] == ["8443:8443"]


def test_the_passphrase_is_a_file_and_never_in_the_environment_or_on_a_command_line(compose: Any) -> None:
    assert compose["services"]["server"]["secrets"] == ["ca_passphrase"]
    assert "file" in compose["secrets"]["ca_passphrase"]
    for service in compose["services"].values():
        assert "environment" not in service
        assert "env_file" not in service
    assert _words(dict(_instructions("server"))["CMD"])[-2:] == ["--passphrase-file", "/run/secrets/ca_passphrase"]


def _installed(kind: str, folder: Path) -> Path:
    """The unit, with the command where it is installed here."""
    text = (UNITS / f"moretta-{kind}.service").read_text(encoding="utf-8")
    here = Path(sys.executable).parent / "moretta"
    path = folder / f"moretta-{kind}.service"
    path.write_text(text.replace("/opt/moretta/bin/moretta", str(here)), encoding="utf-8")
    return path


def _settings(kind: str) -> list[tuple[str, str]]:
    lines = (UNITS / f"moretta-{kind}.service").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_is_hardened_and_starts_a_command_that_exists(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = _settings(kind)
    for needed in (
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("UMask", "0077"),
        ("Restart", "always"),
    ):
        assert needed in settings
    assert dict(settings)["User"] not in ("", "root")
    group, command, *options = dict(settings)["ExecStart"].split()[1:]
    assert moretta([group, command, "--help"]) == 0
    reported = capsys.readouterr().out
    assert all(option in reported for option in options if option.startswith("--"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_takes_a_unit_and_finds_it_little_exposed(kind: str, tmp_path: Path) -> None:
    unit = _installed(kind, tmp_path)
    verified = _systemd_analyze("verify", "--man=no", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = _systemd_analyze("security", "--offline=true", "--no-pager", unit)
    level = re.search(r"Overall exposure level for .*: ([\d.]+)", judged.stdout)
    if level is None:
        pytest.skip("this systemd does not rate units offline")
    assert float(level[1]) <= EXPOSURE


def _systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
