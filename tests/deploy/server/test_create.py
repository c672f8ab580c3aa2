from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.cli.main import run
from moretta.server.enrollment.authority import is_encrypted, load_authority
from moretta.server.home import ServerHome, only_server, running_pid, running_server
from moretta.shared.core.errors import ExitCode, HomeError
from moretta.shared.enrollment import parse_join_string


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: Any) -> tuple[int, str, str]:
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def home(tmp_path: Path, reported: Callable[..., Any]) -> Path:
    assert reported("server", "init", tmp_path / "home", "--name", "moretta.example.org", "--name", "192.0.2.7")[0] == 0
    return tmp_path / "home"


def test_init_makes_a_folder_that_only_its_owner_opens(home: Path) -> None:
    assert home.stat().st_mode & 0o077 == 0
    settings = ServerHome.open(home).settings
    assert (settings.address, settings.listen) == ("moretta.example.org:8443", "0.0.0.0:8443")
    assert settings.names == ("moretta.example.org", "192.0.2.7")
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_an_authority_without_a_passphrase_comes_with_a_loud_warning(reported: Any, tmp_path: Path) -> None:
    code, _, err = reported("server", "init", tmp_path / "home", "--name", "localhost")
    assert code == ExitCode.OK
    assert "WARNING" in err
    assert "NOT ENCRYPTED" in err


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_passphrase_comes_from_a_file_and_encrypts_the_key(
    reported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\nnot this line\n")
    options = ["--passphrase-file", secret] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("MORETTA_CA_PASSPHRASE_FILE", str(secret))
    code, out, err = reported("server", "init", tmp_path / "home", "--name", "localhost", "--json", *options)
    assert (code, err) == (ExitCode.OK, "")
    facts = json.loads(out)
    assert facts["encrypted"]
    folder = tmp_path / "home" / "ca"
    assert is_encrypted(folder)
    assert load_authority(folder, passphrase=b"correct horse", clock=lambda: 0).fingerprint == facts["ca_fingerprint"]


@pytest.mark.parametrize("content", [None, "", "\nsecond line"])
def test_a_passphrase_file_that_says_nothing_stops_init_before_anything_is_made(
    reported: Any, tmp_path: Path, content: str | None
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    code, _, err = reported("server", "init", tmp_path / "home", "--name", "localhost", "--passphrase-file", secret)
    assert code == ExitCode.HOME
    assert "passphrase file" in err
    assert not (tmp_path / "home").exists()


def test_init_leaves_a_folder_that_is_not_empty_as_it_is(reported: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, err = reported("server", "init", tmp_path, "--name", "localhost")
    assert code == ExitCode.HOME
    assert "not an empty folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["", "https://x", "a b", "host:8443", "-x"])
def test_a_name_that_nobody_could_dial_is_refused(reported: Any, tmp_path: Path, name: str) -> None:
    code, _, err = reported("server", "init", tmp_path / "home", "--name", "localhost", f"--name={name}")
    assert code == ExitCode.ENROLLMENT
    assert "as a name of the server" in err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        (("address = ", "adress = "), "adress"),
        ((":8443", ""), "as an address"),
        (("site_hours = 24.0", "site_hours = 0"), "lifetimes.site_hours"),
        (("max_call_bytes = 134217728", "max_call_bytes = 5"), "limits.max_call_bytes"),
        (("names = [", "names = "), "cannot be read"),
    ],
)
def test_settings_that_cannot_be_name_their_key(home: Path, change: tuple[str, str], told_of: str) -> None:
    path = home / "server.toml"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(HomeError, match=told_of):
        ServerHome.open(home)


def test_a_token_is_a_join_string_and_its_secret_is_nowhere_else(home: Path, reported: Any) -> None:
    code, out, err = reported("server", "token", "--server", home, "--site", "clinic-a", "--hours", 2)
    assert (code, err) == (ExitCode.OK, "")
    join = parse_join_string(out)
    assert (join.site, join.address) == ("clinic-a", "moretta.example.org:8443")
    payload = out.split(".")[1]
    for path in home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert join.secret not in content
            assert payload.encode() not in content
            assert join.secret.hex().encode() not in content


@pytest.mark.parametrize("site", ["Clinic A", "", "../x", "token:1"])
def test_a_site_name_that_cannot_be_is_refused(home: Path, reported: Any, site: str) -> None:
    code, _, err = reported("server", "token", "--server", home, "--site", site)
    assert code == ExitCode.ENROLLMENT
    assert "as the name of a site" in err


def test_commands_without_a_server_say_how_to_get_one(reported: Any, tmp_path: Path, home: Path) -> None:
    for command in (("token", "--site", "a"), ("sites",), ("revoke", "a"), ("status",), ("log", "verify")):
        code, _, err = reported("server", *command, "--server", tmp_path / "none")
        assert code == ExitCode.HOME
        assert "moretta server init" in err
    code, out, _ = reported("server", "status", "--server", home, "--json")
    assert code == ExitCode.UNREACHABLE
    assert json.loads(out)["problems"] == {"server": "it does not run"}


def test_sites_and_log_are_reported_as_text_and_as_json(home: Path, reported: Any) -> None:
    assert reported("server", "sites", "--server", home)[1].strip() == "no site is enrolled"
    assert json.loads(reported("server", "sites", "--server", home, "--json")[1]) == []
    reported("server", "token", "--server", home, "--site", "a")
    verified = json.loads(reported("server", "log", "verify", "--server", home, "--json")[1])
    assert verified["lines"] == 2
    assert reported("server", "log", "verify", "--server", home, "--head", verified["head"])[0] == ExitCode.OK
    assert reported("server", "log", "verify", "--server", home, "--head", "0" * 63 + "1")[0] == ExitCode.HOME


def test_a_folder_has_one_server_at_most_and_the_lock_goes_with_it(home: Path) -> None:
    opened = ServerHome.open(home)
    assert running_pid(opened) is None
    with only_server(opened):
        with pytest.raises(HomeError, match="a server runs on"), only_server(opened):
            pass
        assert running_pid(opened) is not None
        with pytest.raises(HomeError, match="still starting"):
            running_server(opened)
    assert running_pid(opened) is None
    with pytest.raises(HomeError, match="no server runs on"):
        running_server(opened)
