"""Every fault that the doctor knows is made, found, and reported with its remedy."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity
from moretta.deploy.cli.main import run
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.site import doctor
from moretta.deploy.site.doctor import Finding, examine, worst
from moretta.shared.core import reproducibility
from moretta.shared.core.errors import ExitCode
from moretta.shared.pb import enrollment_pb2 as pb

GIB = 2**30


def faults(home: SiteHome, **said: Any) -> dict[str, Finding]:
    return {f.check: f for f in examine(home, **said) if f.verdict == "fault"}


def disk(free: int) -> Callable[[Path], Any]:
    return lambda folder: SimpleNamespace(free=free)


def test_a_site_without_a_fault_gets_a_clean_report(site: SiteHome) -> None:
    found = examine(site, disk_usage=disk(10 * GIB))
    assert not [f for f in found if f.verdict == "fault"]
    assert worst(found) == ExitCode.OK
    looked_at = {f.check for f in found}
    assert {"versions", "folder", "disk", "settings", "corpus", "policy", "identity"} <= looked_at
    assert {"certificate", "dns", "port", "authority", "enrollment", "clock", "process"} <= looked_at


def test_what_a_killed_review_left_is_a_warning_with_the_command_that_removes_it(site: SiteHome) -> None:
    (site.root / ".review-abc").mkdir(mode=0o700)
    (found,) = [f for f in examine(site, disk_usage=disk(10 * GIB)) if f.check == "reviews"]
    assert (found.verdict, found.fix.split(": ")[1]) == ("warning", f"rm -r {site.root}/.review-*")


def _no_folder(site: SiteHome, background: Any) -> None:
    site.root.rename(site.root.with_name("elsewhere"))


def _readable(site: SiteHome, background: Any) -> None:
    site.identity_file.chmod(0o644)


def _no_settings(site: SiteHome, background: Any) -> None:
    site.site_file.write_text("corpus = 7\n")


def _no_corpus(site: SiteHome, background: Any) -> None:
    site.write(site.read().model_copy(update={"corpus": Path("/nowhere")}))


def _absent_speaker(site: SiteHome, background: Any) -> None:
    site.write(site.read().model_copy(update={"speakers": ("1001", "7777")}))


def _absent_device(site: SiteHome, background: Any) -> None:
    site.write(site.read().model_copy(update={"device": "mps" if sys.platform == "linux" else "cuda"}))


def _no_policy(site: SiteHome, background: Any) -> None:
    site.policy_file.unlink()


def _unknown_rule(site: SiteHome, background: Any) -> None:
    site.policy_file.write_text("max_epsilon = 3\n")


def _other_server(site: SiteHome, background: Any) -> None:
    site.policy_file.write_text(f'server_fingerprint = "{"ab" * 32}"\n')


def _other_code(site: SiteHome, background: Any) -> None:
    site.policy_file.write_text(f'code_digest = "{"ab" * 32}"\n')


def _other_bundle(site: SiteHome, background: Any) -> None:
    site.policy_file.write_text(f'bundle_digest = "{"ab" * 32}"\n')


def _seeded(site: SiteHome, background: Any) -> None:
    site.write(site.read().model_copy(update={"simulated_seed": 1}))


def _not_enrolled(site: SiteHome, background: Any) -> None:
    site.identity_file.unlink()


def _damaged(site: SiteHome, background: Any) -> None:
    site.identity_file.write_text("{}")
    site.identity_file.chmod(0o600)


def _expired(site: SiteHome, background: Any) -> None:
    background.server.identity(hours=-0.01).save(site.identity_file)


def _elsewhere(address: str) -> Any:
    def spoil(site: SiteHome, background: Any) -> None:
        identity = Identity.load(site.identity_file)
        identity.model_copy(update={"address": address}).save(site.identity_file)

    return spoil


def _down(site: SiteHome, background: Any) -> None:
    background.do(background.server.stop())


def _impostor(site: SiteHome, background: Any) -> None:
    other = type(background.server)()
    identity = other.identity().model_copy(update={"address": background.server.address})
    identity.save(site.identity_file)
    site.policy_file.write_text("")


def _revoked(site: SiteHome, background: Any) -> None:
    background.server.refuse = (grpc.StatusCode.UNAUTHENTICATED, "revoked: this site's enrollment was revoked")


@pytest.mark.parametrize(
    ("spoil", "check", "code", "fix"),
    [
        (_no_folder, "folder", ExitCode.HOME, "moretta site join"),
        (_readable, "folder", ExitCode.HOME, "chmod -R go="),
        (_no_settings, "settings", ExitCode.HOME, "correct the file"),
        (_no_corpus, "corpus", ExitCode.CORPUS, "correct the corpus"),
        (_absent_speaker, "corpus", ExitCode.CORPUS, "correct speakers in site.toml"),
        (_absent_device, "device", ExitCode.HOME, "auto"),
        (_no_policy, "policy", ExitCode.HOME, "docs/policy.md"),
        (_unknown_rule, "policy", ExitCode.HOME, "correct the file"),
        (_other_server, "policy kept", ExitCode.REFUSED, "change policy.toml"),
        (_other_code, "policy kept", ExitCode.REFUSED, "change policy.toml"),
        (_other_bundle, "policy kept", ExitCode.REFUSED, "change policy.toml"),
        (_seeded, "policy kept", ExitCode.REFUSED, "change policy.toml"),
        (_not_enrolled, "identity", ExitCode.HOME, "moretta site join"),
        (_damaged, "identity", ExitCode.HOME, "--reenroll"),
        (_expired, "certificate", ExitCode.ENROLLMENT, "--reenroll"),
        (_elsewhere("no-such-host.invalid:1"), "dns", ExitCode.UNREACHABLE, "getent hosts no-such-host.invalid"),
        (_down, "port", ExitCode.UNREACHABLE, "open TCP connections to 127.0.0.1"),
        (_impostor, "authority", ExitCode.ENROLLMENT, "check the address"),
        (_revoked, "enrollment", ExitCode.ENROLLMENT, "--reenroll"),
    ],
)
def test_each_fault_is_found_with_its_code_and_how_it_is_put_right(
    site: SiteHome, background: Any, *, spoil: Any, check: str, code: ExitCode, fix: str
) -> None:
    spoil(site, background)
    found = faults(site)
    assert check in found
    assert found[check].code == code
    assert fix in found[check].fix
    assert worst(list(found.values())) == code


def test_no_finding_but_a_good_one_is_without_a_fix(site: SiteHome, background: Any) -> None:
    for spoil in (_readable, _absent_speaker, _seeded, _down):
        spoil(site, background)
    found = examine(site, disk_usage=disk(0))
    assert len([f for f in found if f.verdict == "fault"]) >= 5
    assert all(f.fix for f in found if f.verdict != "ok")


@pytest.mark.parametrize(("free", "verdict"), [(0, "fault"), (GIB, "warning"), (10 * GIB, "ok")])
def test_a_full_disk_is_found(site: SiteHome, free: int, verdict: str) -> None:
    (found,) = [f for f in examine(site, disk_usage=disk(free)) if f.check == "disk"]
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(0.0, "ok"), (3.0, "warning"), (-60.0, "warning"), (10.0, "fault"), (-400.0, "fault")]
)
def test_a_wrong_clock_is_found(site: SiteHome, ahead: float, verdict: str) -> None:
    found = {f.check: f for f in examine(site, clock=lambda: time.time() + ahead)}["clock"]
    assert found.verdict == verdict
    assert ("set-ntp" in found.fix) == (verdict != "ok")


def test_a_renewal_that_is_overdue_is_found(site: SiteHome) -> None:
    later = time.time() + 20 * 3600
    (found,) = [f for f in examine(site, clock=lambda: later) if f.check == "certificate"]
    assert found.verdict == "warning"
    assert "moretta site run" in found.fix


@pytest.mark.parametrize(
    ("reply", "check", "verdict"),
    [
        (pb.InfoReply(moretta_version="9.9"), "server's versions", "warning"),
        (pb.InfoReply(flwr_version="9.9"), "server's versions", "warning"),
        (pb.InfoReply(code_digest="ab" * 32), "server's code", "warning"),
        (pb.InfoReply(bundle_digest="ab" * 32), "server's bundle", "fault"),
    ],
)
def test_other_software_at_the_server_is_found(reply: pb.InfoReply, check: str, verdict: str) -> None:
    (found,) = doctor.check_code(reply)
    assert (found.check, found.verdict) == (check, verdict)
    assert found.fix


def test_the_same_software_at_the_server_is_no_finding() -> None:
    own = reproducibility.versions()
    same = pb.InfoReply(
        moretta_version=own["moretta"],
        flwr_version=own["flwr"],
        code_digest=reproducibility.code_digest(),
        bundle_digest=installed_bundle().digest,
    )
    assert not list(doctor.check_code(same))


def test_a_package_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("moretta", "torch"))
    monkeypatch.setattr(doctor, "versions", lambda: {"moretta": "0.1.0", "torch": "absent", "python": "3.11"})
    (found,) = doctor.check_packages()
    assert (found.verdict, found.code) == ("fault", ExitCode.INTERNAL)
    assert "torch" in found.found


def test_a_site_gets_reports_on_its_own_clips_and_not_on_others_in_the_same_folder(site: SiteHome) -> None:
    (whole,) = [f.found for f in examine(site) if f.check == "corpus"]
    site.write(site.read().model_copy(update={"speakers": ("1001", "1002")}))
    (own,) = [f.found for f in examine(site) if f.check == "corpus"]
    assert whole.startswith("48 clips of 4 speakers")
    assert own.startswith("24 clips of 2 speakers")
    assert own.endswith("which has 48")


def test_warnings_of_the_corpus_and_the_policy_are_reported(site: SiteHome, tiny_corpus: Path) -> None:
    (tiny_corpus / "AudioWAV" / "nobody.wav").write_bytes(b"x")
    site.write(site.read().model_copy(update={"held_out": ("1001", "1002", "1003", "1004")}))
    site.policy_file.write_text("allow_seeded_noise = true\n")
    warned = [f.found for f in examine(site) if f.verdict == "warning"]
    for words in ("1 files cannot be used", "trains nothing", "protects nobody", "not running"):
        assert any(words in found for found in warned)


def test_the_command_prints_each_fix_and_ends_with_the_first_fault_s_code(
    site: SiteHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["site", "doctor", "--home", str(site.root)]) == ExitCode.OK
    capsys.readouterr()
    _no_corpus(site, None)
    assert run(["site", "doctor", "--home", str(site.root), "--json"]) == ExitCode.CORPUS
    content = json.loads(capsys.readouterr().out)
    assert content["exit_code"] == int(ExitCode.CORPUS)
    assert [f["check"] for f in content["findings"] if f["verdict"] == "fault"] == ["corpus"]
    assert run(["site", "doctor", "--home", str(site.root)]) == ExitCode.CORPUS
    assert "to fix it: correct the corpus" in capsys.readouterr().out
