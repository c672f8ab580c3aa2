"""One deployment for all: the figures of a simulation, kills of everything, and what must not leave or go on."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from network import Network, Site, StudyRun, chosen
from safetensors.numpy import load_file

from moretta.client.accounting.ledger import Ledger
from moretta.deploy.model.delivered_model import load_model
from moretta.deploy.model.export_model import export_model
from moretta.deploy.model.predict import predict
from moretta.shared.core.errors import ExitCode
from moretta.shared.release import open_release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_with_seeded_noise_the_deployment_gives_the_weights_and_figures_of_the_simulation(
    simulated: StudyRun, undisturbed: StudyRun
) -> None:
    assert undisturbed.weights() == simulated.weights()
    one, two = simulated.report(), undisturbed.report()
    for part in ("emotion", "emotion_central", "privacy"):
        assert one[part] == two[part], part
    for found in (one, two):
        for round_ in found["run"]["rounds"]:
            round_.pop("seconds")
    assert one["run"]["rounds"] == two["run"]["rounds"]
    assert [r["uar"] for r in (one["emotion"]["voice"], two["emotion"]["voice"])] != [None, None]
    figures = [_semi_informed(report) for report in (one, two)]
    assert figures[0]
    assert figures[0] == figures[1]


def _semi_informed(report: Any) -> list[tuple[str, float]]:
    rows = [r for r in report["audit"] if r["scenario"] == "semi-informed" and r["value"] is not None]
    return [(f"{r['attacker']} {r['metric']} {r['subset']} {r['pooled']}", r["value"]) for r in rows]


def test_renewed_certificates_in_the_middle_of_a_round_change_nothing_in_the_result(
    network: Network, simulated: StudyRun, undisturbed: StudyRun
) -> None:
    """`undisturbed` had every site renew while it trained."""
    assert undisturbed.weights() == simulated.weights()
    assert undisturbed.report()["run"]["warnings"] == simulated.report()["run"]["warnings"]
    events = [json.loads(line) for line in (network.home / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {e["site"] for e in events if e["event"] == "renewed"} == {"site-00", "site-01", "site-02"}


def test_the_report_of_a_deployment_says_what_it_is_and_warns_of_seeded_noise(undisturbed: StudyRun) -> None:
    found = undisturbed.report()["run"]
    assert (found["deployment"], found["seeded_noise"]) == (True, True)
    assert [site["site"] for site in found["sites"]] == ["site-00", "site-01", "site-02"]
    assert all(site["missed"] == [] for site in found["sites"])
    page = (undisturbed.out / "report.html").read_text(encoding="utf-8")
    assert "ran over the network with 3 enrolled sites" in page
    assert "No site was lost." in page
    scenarios = {row["scenario"] for row in undisturbed.report()["audit"]}
    assert scenarios == {"semi-informed", "constant"}  # what needs originals cannot be had: they never left the sites


def test_a_site_gets_the_report_of_its_study_and_makes_the_page_itself(network: Network, undisturbed: StudyRun) -> None:
    site, study = network.sites[0], undisturbed.digest()
    listed = json.loads(network.moretta("site", "report", "--home", str(site.home), "--json"))
    assert study in [row["study"] for row in listed["studies"]]
    found = json.loads(network.moretta("site", "report", study[:12], "--home", str(site.home), "--json"))
    assert found["gate"] == undisturbed.report()["gate"]
    assert "ran over the network with 3 enrolled sites" in Path(found["report"]).read_text(encoding="utf-8")
    kept = Path(found["report"]).with_name("report.json").read_text(encoding="utf-8")
    releases = undisturbed.out / "server" / "releases"
    own, other = ({c.speaker for c in open_release(releases / name).clips} for name in (site.name, "site-01"))
    whole = (undisturbed.out / "report.json").read_text(encoding="utf-8")
    assert any(person in whole for person in other)
    assert any(person in kept for person in own) and not any(person in kept for person in other)


def test_the_model_of_a_deployment_is_exported_as_that_of_the_simulation_and_reads_its_releases(
    simulated: StudyRun, undisturbed: StudyRun, tmp_path: Path
) -> None:
    one, two = (export_model(run.out, tmp_path / run.out.name) for run in (simulated, undisturbed))
    assert (one.deployment, two.deployment) == (False, True)
    assert (one.arrays, one.emotion, one.calibration) == (two.arrays, two.emotion, two.calibration)
    releases = undisturbed.out / "server" / "releases"
    found = predict(load_model(tmp_path / undisturbed.out.name), [releases / "site-00"])
    assert not found.problems
    assert len({row.clip for row in found.rows}) == len(open_release(releases / "site-00").clips)


def test_with_the_test_mode_a_site_releases_the_same_for_two_studies(undisturbed: StudyRun, killed: Any) -> None:
    """The other side of the test without it: there it is the noise that differs, and nothing else."""
    assert _released(undisturbed) == _released(killed.run)


def _released(run: StudyRun, site: str = "site-00") -> bytes:
    folder: Path = run.out / "server" / "releases" / site
    return (folder / "voice-00000.safetensors").read_bytes()


def test_kills_of_superlink_server_and_machine_in_the_middle_of_rounds_change_neither_weights_nor_epsilon(
    undisturbed: StudyRun, killed: Any
) -> None:
    assert killed.run.weights() == undisturbed.weights()
    assert killed.run.epsilons() == undisturbed.epsilons()
    assert killed.run.report()["emotion"] == undisturbed.report()["emotion"]
    assert killed.run.outcome()["status"] == "completed"
    assert all(row["sites"] == 3 and row["failed"] == 0 for row in killed.run.report()["run"]["rounds"])


def test_a_study_goes_on_from_its_last_round_after_a_power_cut_at_the_server(killed: Any) -> None:
    text = (killed.run.out / "progress.jsonl").read_text(encoding="utf-8")
    reported = [json.loads(line) for line in text.splitlines()]
    assert [line["stage"] for line in reported if line["state"] == "started"].count("release") == 1
    assert [line["after"] for line in reported if line["state"] == "resumed"][-1] == "round 1 of training voice"
    assert [row["round"] for row in killed.run.report()["run"]["rounds"]] == [1, 2]


def test_a_duplicate_update_counts_once(undisturbed: StudyRun, killed: Any) -> None:
    """In `killed` one site sent every response twice."""
    assert killed.twice.count("\n") >= 2
    assert killed.run.weights() == undisturbed.weights()
    assert [site["rounds"] for site in killed.run.report()["run"]["sites"]] == [2, 2, 2]


def test_a_round_goes_on_without_a_killed_site_where_the_study_says_continue(lost: Any) -> None:
    report = lost.continued.report()
    assert [row["sites"] for row in report["run"]["rounds"]] == [2]
    sites = {site["site"]: site for site in report["run"]["sites"]}
    assert sites["site-02"]["rounds"] == 0
    assert "round 1 of train voice" in sites["site-02"]["missed"]
    assert any(w.startswith("site-02 missed round 1 of training voice: it was lost") for w in report["run"]["warnings"])
    assert "site-02 missed" in (lost.continued.out / "report.html").read_text(encoding="utf-8")


def test_a_round_waits_for_a_killed_site_where_the_study_says_retry(lost: Any) -> None:
    report = lost.retried.report()
    assert [row["sites"] for row in report["run"]["rounds"]] == [3]
    assert report["run"]["sites"][2]["missed"] == []
    assert any("site-02: it was lost" in line and "sent again" in line for line in lost.retried.command.lines)


def test_the_ledger_of_a_killed_site_never_counts_less_than_it_gave_away(lost: Any) -> None:
    ledger = Ledger(lost.site.home / "ledger.jsonl")  # opens only if its chain is whole
    for run in (lost.continued, lost.retried):
        used = next(s["rounds"] for s in run.report()["run"]["sites"] if s["site"] == "site-02")
        assert len(ledger.entries("dp-sgd", study=run.digest())) >= used
        assert len(ledger.entries("release", study=run.digest())) >= 1


def test_a_study_in_which_all_sites_fail_exits_non_zero_and_names_the_cause(
    network: Network, test_mode_sites: list[Site]
) -> None:
    text = '[voice]\nanonymizer = "none"\n[face]\nenabled = false\n[train]\ndeadline_seconds = 600.0\n'
    names = [site.name for site in test_mode_sites]
    run = network.study("all-fail", text, *chosen(*names)).wait(ExitCode.RUN_FAILED)
    found = run.outcome()
    assert (found["status"], found["exit_code"]) == ("failed", int(ExitCode.RUN_FAILED))
    assert "0 of 3 sites finished the stage 'release'" in found["cause"]
    assert "anonymizers" in found["cause"]  # the rule of the sites' policies that refused
    assert not (run.out / "report.json").exists()
    assert run.command.reported("0 of 3 sites finished")


def test_without_the_test_mode_noise_comes_from_the_operating_system_and_no_two_runs_are_alike(
    secure: StudyRun, hostile: Any
) -> None:
    """Two studies without a seed at the same site, whose anonymizer and clips are the same."""
    for run in (secure, hostile.run):
        assert run.report()["run"]["seeded_noise"] is False
    assert _released(secure, "open-00") != _released(hostile.run, "open-00")
    assert next(e for site, number, e in hostile.run.epsilons() if (site, number) == ("open-00", 1)) is not None


def test_bad_updates_of_every_kind_are_refused_with_the_reason_and_the_others_go_on(hostile: Any) -> None:
    report = hostile.run.report()
    assert [(row["sites"], row["failed"]) for row in report["run"]["rounds"]] == [(1, 3)] * 3  # one was revoked
    reported = {
        "open-01": ("not finite", "tensors that are missing or too many: stowaway", "bytes, at most"),
        "open-02": (", not float32 [", "cannot be read", "an update of norm"),
    }
    for site, reasons in reported.items():
        for number, reason in enumerate(reasons, start=1):
            start = f"{site} was left out of round {number} of training voice: "
            warnings = [w for w in report["run"]["warnings"] if w.startswith(start)]
            assert len(warnings) == 1, report["run"]["warnings"]
            assert reason in warnings[0]
    rounds = {site["site"]: site["rounds"] for site in report["run"]["sites"]}
    assert {name: rounds[name] for name in ("open-00", "open-01", "open-02")} == {
        "open-00": 3,
        "open-01": 0,
        "open-02": 0,
    }
    assert report["emotion"]["voice"] is not None


def test_under_secure_aggregation_no_update_is_on_the_wire_and_the_server_has_their_mean(
    network: Network, open_sites: Any, secure: StudyRun
) -> None:
    report = secure.report()
    assert [(row["sites"], row["failed"]) for row in report["run"]["rounds"]] == [(3, 0)]
    assert report["emotion"]["voice"] is not None
    assert {row["mechanism"] for row in report["privacy"]} >= {
        "dp-sgd",
        "site-level noise (distributed)",
    }
    (kept,) = (open_sites[0].home / "updates" / secure.digest()[:16]).glob("voice.safetensors")
    traffic, stretches = (network.root / "secure.traffic").read_bytes(), _stretches(kept)
    assert len(stretches) > 50
    assert len(traffic) > 16 * len(stretches)
    assert not any(stretch in traffic for stretch in stretches)


def _stretches(kept: Path) -> list[bytes]:
    """Pieces of the largest array of an update as the site keeps it, which is as it would leave."""
    update = max(load_file(kept).values(), key=lambda array: array.size).tobytes()
    return [update[start : start + 16] for start in range(0, len(update) - 16, 16)]


def test_a_site_that_is_revoked_in_a_round_is_refused_at_its_next_call_and_the_round_ends_without_it(
    hostile: Any,
) -> None:
    report = hostile.run.report()
    assert [row["sites"] for row in report["run"]["rounds"]] == [1, 1, 1]
    warning = "gone-00 missed rounds 1-3 of training voice: its enrollment was revoked"
    assert warning in report["run"]["warnings"]
    page = (hostile.run.out / "report.html").read_text(encoding="utf-8")
    assert "gone-00 missed rounds 1-3 of train voice" in page
    mine = [e["event"] for e in hostile.audit if "gone-00" in (e.get("site"), e.get("caller"))]
    assert "refused" in mine[mine.index("revoked") :], hostile.audit[-5:]
    assert "relay" not in mine[mine.index("refused") :]  # once refused, always refused


def _needles(site: Any) -> dict[str, bytes]:
    """Data that would reveal a recording: stretches of raw samples in several forms, names of files, numbers."""
    found: dict[str, bytes] = {"path": str(site.corpus).encode(), "demographics": b"VideoDemographics"}
    for path in sorted((site.corpus / "AudioWAV").iterdir()):
        found[path.name] = path.stem.encode()
        samples, _ = soundfile.read(path, dtype="int16")
        floats, _ = soundfile.read(path, dtype="float32")
        for start in range(0, len(samples) - 64, 1600):
            stretch, real = samples[start : start + 32], floats[start : start + 32]
            found[f"{path.name} pcm {start}"] = stretch.tobytes()
            found[f"{path.name} float32 {start}"] = real.tobytes()
            found[f"{path.name} float64 {start}"] = real.astype(np.float64).tobytes()
            found[f"{path.name} text {start}"] = ", ".join(map(str, real[:6].tolist())).encode()
    return found


def test_with_a_failing_anonymizer_no_raw_byte_is_on_the_wire(hostile: Any) -> None:
    """The traffic of the site was recorded where it leaves: every call to the server, whole."""
    traffic = hostile.recorded[hostile.failing.name]
    assert len(traffic) > 1000
    for name, needle in _needles(hostile.failing).items():
        for form in (needle, base64.b64encode(needle)[4:-4], needle.hex().encode()):
            assert form not in traffic, name
    warnings = hostile.run.report()["run"]["warnings"]
    assert any(w.startswith(f"{hostile.failing.name} released nothing: ") for w in warnings), warnings


def test_the_recording_would_show_a_raw_byte_since_it_shows_what_was_released(hostile: Any) -> None:
    """The test before is worth what this one finds: released arrays of the sound site, byte for byte."""
    folder = hostile.run.out / "server" / "releases" / hostile.sound.name
    released = (folder / "voice-00000.safetensors").read_bytes()
    traffic = hostile.recorded[hostile.sound.name]
    stretches = [released[start : start + 128] for start in range(0, len(released) - 128, len(released) // 20)]
    assert all(stretch in traffic for stretch in stretches)
    (kept,) = (hostile.sound.home / "updates" / hostile.run.digest()[:16]).glob("voice.safetensors")
    assert all(stretch in traffic for stretch in _stretches(kept))  # nor is an update hidden where nothing hides it


def _counted(run: StudyRun) -> tuple[int, int]:
    statement = json.loads((run.out / "server" / "releases" / "own-00" / "statement.json").read_text("utf-8"))
    return statement["clips"], statement["speakers"]


def test_the_second_run_of_a_study_has_nobody_whose_clips_were_deleted_since_the_first(left: Any) -> None:
    assert _counted(left.first) == (36, 3)
    assert _counted(left.second) == (24, 2)
    assert left.first.digest() == left.second.digest()


def test_a_running_site_withdraws_a_person_and_both_runs_list_what_is_still_out(left: Any) -> None:
    (out,) = left.withdrawn["out"]
    assert (out["study"], out["name"]) == (left.second.digest(), "leaving")
    assert out["sent"] == {"release": [], "voice": [1]}
    assert out["server"].startswith("127.0.0.1:")
    clips = (left.second.out / "server" / "releases" / "own-00" / "clips.jsonl").read_text("utf-8")
    assert out["pseudonyms"][0] in clips
    assert left.withdrawn["removed"] == [left.second.digest()[:16]]
    assert not list((left.site.home / "release").rglob("*.safetensors"))
