"""The ClientApp of an enrolled site: its policy, its own folder, and nothing raw in any response."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import TRUSTED, approve, enrolled
from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from killing import Action, Killed, kill_at_every_write

from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.client.app import app
from moretta.client.clips import release as releasing
from moretta.client.site_home import SiteHome
from moretta.client.site_log import Follower
from moretta.shared.core.errors import ExitCode
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study, parse_study

OPEN = f"allow_seeded_noise = true\nmax_training_epsilon = inf\n{TRUSTED}"
CONTENT = {"sites": 2, "face": {"enabled": False}, "train": {"rounds": 2}, "split": {"folds": 2}}
WEIGHTS = {
    "0.mean": np.zeros(78, np.float32),
    "0.std": np.ones(78, np.float32),
    "2.weight": np.zeros((6, 78), np.float32),
    "2.bias": np.zeros(6, np.float32),
}


@dataclass
class Site:
    """Sends requests to an enrolled site and keeps every byte of its responses."""

    home: SiteHome
    study: Study
    public: dict[str, Any]
    sent: bytes = b""

    def call(self, kind: str, content: RecordDict | None = None, **run_config: Any) -> RecordDict:
        metadata = Metadata(1, "m", 0, 5, "", "", 1e9, 1e9, kind)
        node = {"site-home": str(self.home.root), "partition-id": 0}
        context = Context(1, 5, node, RecordDict(), run_config)
        request_digest = content or RecordDict({wire.CONFIG: wire.json_config(version=1)})
        reply = app(Message(request_digest, metadata=metadata), context)
        self.sent += b"".join(part.deflate() for part in get_all_nested_objects(reply).values())
        return wire.unpacked(reply.content)

    def ask(self, kind: str, arrays: dict[str, Any] | None = None, **values: Any) -> RecordDict:
        content = RecordDict({wire.CONFIG: wire.study_config(self.study, **values)})
        if arrays is not None:
            content[wire.ARRAYS] = wire.arrays_to_record(arrays)
        return self.call(kind, content)

    def release(self) -> RecordDict:
        return self.ask(wire.RELEASE, approval=approve(self.home, self.study, self.public))

    def train(self, number: int, weights: dict[str, Any] = WEIGHTS) -> RecordDict:
        content = RecordDict({wire.CONFIG: wire.study_config(self.study), wire.ARRAYS: wire.arrays_to_record(weights)})
        content[wire.CONFIG]["server-round"] = number  # type: ignore[index]
        return self.call(wire.TRAIN["voice"], content)

    def everything(self) -> None:
        """All that a server can ask for."""
        self.call(wire.HELLO)
        response = self.release()
        if "files" in response[wire.CONFIG]:
            for name, size in wire.from_config(response, "files").items():
                self.ask(wire.FETCH, parts=[[name, 0, size]])
        self.ask(wire.FETCH, parts=[["voice-00000.safetensors", 0, 9]])
        self.train(1)
        content = RecordDict({wire.CONFIG: wire.study_config(self.study)})
        content[f"{wire.ARRAYS}-voice"] = wire.arrays_to_record(WEIGHTS)
        self.call(wire.EVALUATE, content)


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path, simulated: Any) -> Site:
    study = parse_study({**CONTENT, "voice": {"codebook_size": 16}})
    return Site(enrolled(tmp_path / "site", tiny_corpus, held_out=("1001",)), study, simulated.public)


def failure(response: RecordDict) -> str:
    assert set(response) == {wire.CONFIG}
    assert set(response[wire.CONFIG]) == {"site", "failure", "code"}
    return str(wire.from_config(response, "failure"))


def test_an_enrolled_site_responds_as_itself_whatever_the_server_says(site: Site, simulated: Any) -> None:
    response = site.call(wire.HELLO, **{"run-dir": str(simulated.folder)})
    assert wire.from_config(response, "site") == "clinic-a"  # not site-00, which has no policy


def test_a_release_states_who_is_held_out_by_pseudonym(site: Site) -> None:
    response = site.release()
    held_out = wire.from_config(response, "held_out")
    assert len(held_out) == 1
    assert wire.from_config(response, "training") == {"voice": 36}
    content = RecordDict({wire.CONFIG: wire.study_config(site.study)})
    content[f"{wire.ARRAYS}-voice"] = wire.arrays_to_record(WEIGHTS)
    assert list(wire.from_config(site.call(wire.EVALUATE, content), "counts")["voice"]) == held_out


def test_a_site_that_names_nobody_holds_out_by_its_own_rule(site: Site) -> None:
    site.home.write(site.home.read().model_copy(update={"held_out": None}))
    held_out = wire.from_config(site.release(), "held_out")
    assert len(held_out) == 2  # of four speakers in two folds


def test_seeded_noise_is_refused_unless_the_policy_allows_it(site: Site) -> None:
    site.home.write(site.home.read().model_copy(update={"simulated_seed": 1}))
    for kind in (wire.HELLO, wire.RELEASE, wire.FETCH, *wire.TRAIN.values(), wire.EVALUATE):
        assert failure(site.call(kind)) == "refused by the rule allow_seeded_noise of the site's policy"
    assert not site.home.root.joinpath("release").exists()
    assert not site.home.root.joinpath("ledger.jsonl").exists()
    site.home.policy_file.write_text(OPEN, encoding="utf-8")
    assert "files" in site.release()[wire.CONFIG]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("max_release_epsilon", ""),
        ("server_fingerprint", f'server_fingerprint = "{"ab" * 32}"'),
        ("code_digest", f'code_digest = "{"ab" * 32}"'),
        ("modalities", 'modalities = ["face"]'),
        ("anonymizers", 'anonymizers = ["autoencoder"]'),
        ("max_training_epsilon", "max_training_epsilon = 7.0"),
        ("max_delta", "max_delta = 0.0001"),
        ("allow_attributes", "allow_attributes = false"),
        ("min_clips", "min_clips = 49"),
        ("min_speakers", "min_speakers = 5"),
        ("max_release_epsilon", "max_release_epsilon = 8.0"),
        ("max_value_epsilon", f"{TRUSTED}[mechanisms]\nmax_value_epsilon = 9.0"),
        ("max_codebook_size", f"{TRUSTED}[mechanisms]\nmax_codebook_size = 15"),
    ],
)
def test_a_refusal_names_its_rule_and_leaves_no_trace_of_a_loss(site: Site, rule: str, text: str) -> None:
    site.home.policy_file.write_text(text + "\n", encoding="utf-8")
    response = site.release()
    assert failure(response) == f"refused by the rule {rule} of the site's policy"
    assert wire.from_config(response, "code") == int(ExitCode.REFUSED)
    assert not site.home.root.joinpath("ledger.jsonl").exists()
    assert not list(site.home.root.rglob("statement.json"))
    (line,) = (site.home.root / "site.log").read_text("utf-8").splitlines()
    early = rule in {"server_fingerprint", "code_digest"}  # before any request is read
    of = "" if early else f" of 'moretta' ({site.study.digest()[:12]})"
    assert f"query.release{of} refused: PolicyError: " in line
    assert f"the rule {rule} of the policy refuses" in line


def test_each_thing_that_leaves_is_one_line_of_the_log_and_nothing_else_is(site: Site) -> None:
    site.home.policy_file.write_text(OPEN, encoding="utf-8")
    follower = Follower(site.home.root)
    site.everything()
    lines = list(follower.lines())
    of = f"of 'moretta' ({site.study.digest()[:12]})"
    assert lines[0] == f"release {of}: 48 clips of 4 people"
    assert lines[1].startswith(f"round 1 of training voice {of}; epsilon so far ") and lines[1].endswith(" per clip")
    assert lines[2:] == [f"evaluation {of}: counts of held-out people"]
    assert not list(follower.lines())
    site.train(1, {})
    assert "Traceback" not in "".join(follower.lines())
    whole = (site.home.root / "site.log").read_text("utf-8")
    assert not any(name in whole for name in ("1001", ".wav"))


def test_what_can_be_refused_beforehand_is_refused_before_a_clip_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "_read_voice", lambda clip: pytest.fail("a clip was read"))
    for text in ("min_clips = 49", 'modalities = ["face"]', "max_training_epsilon = 7.0"):
        site.home.policy_file.write_text(text + "\n", encoding="utf-8")
        assert "policy" in failure(site.release())


def test_a_policy_that_was_tightened_holds_for_what_was_released_before(site: Site) -> None:
    site.release()
    site.home.policy_file.write_text("without_guarantee = []\n", encoding="utf-8")
    request_digest = site.ask(wire.FETCH, parts=[["clips.jsonl", 0, 9]])
    assert failure(request_digest) == "refused by the rule max_release_epsilon of the site's policy"


@pytest.mark.parametrize("text", [None, "min_clip = 1\n", "not toml"])
def test_without_a_policy_that_can_be_read_there_is_no_response(site: Site, text: str | None) -> None:
    site.home.policy_file.unlink()
    if text is not None:
        site.home.policy_file.write_text(text, encoding="utf-8")
    for kind in (wire.HELLO, wire.RELEASE, wire.FETCH, *wire.TRAIN.values(), wire.EVALUATE):
        assert failure(site.call(kind)) == "HomeError"


def test_a_round_requested_again_gets_the_same_response_and_spends_nothing_more(site: Site) -> None:
    site.release()
    first, again = site.train(1), site.train(1)
    assert {n: a.tobytes() for n, a in wire.arrays_of(first).items()} == {
        n: a.tobytes() for n, a in wire.arrays_of(again).items()
    }
    assert dict(first[wire.METRICS]) == dict(again[wire.METRICS])
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")) == 1


def test_another_question_is_another_loss(site: Site) -> None:
    site.release()
    site.train(1)
    site.train(1, {**WEIGHTS, "2.bias": np.ones(6, np.float32)})
    site.train(2)
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")) == 3


def test_an_update_that_cannot_be_read_back_is_trained_anew_and_counted(site: Site) -> None:
    site.release()
    site.train(1)
    (kept,) = (site.home.root / "updates").rglob("*.safetensors")
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(kept.read_bytes()[:100])
    assert "epsilon" in site.train(1)[wire.METRICS]
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")) == 2


def test_a_round_that_killed_the_site_at_any_write_is_trained_anew_and_paid_once(site: Site, tmp_path: Path) -> None:
    """A response that never left costs nothing; one that may have left is sent again alike, or is another loss."""
    site.release()
    places = (tmp_path / f"killed-{number}" for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        folder = next(places)
        shutil.copytree(site.home.root, folder)
        doomed = Site(SiteHome(folder), site.study, site.public)

        def train(done: Any) -> None:
            doomed.train(1)
            done()

        def check(outcome: Killed) -> None:
            before = len(Ledger(folder / "ledger.jsonl").entries("dp-sgd"))
            assert outcome.done <= before <= 1
            assert "epsilon" in doomed.train(1)[wire.METRICS]
            ledger = Ledger(folder / "ledger.jsonl")
            assert (len(ledger.entries("dp-sgd")), len(ledger.entries("answered"))) == (1, 1)
            (kept,) = (folder / "updates").rglob("[!.]*.safetensors")
            kept.unlink()  # it has left: now another response is another loss
            doomed.train(1)
            assert len(Ledger(folder / "ledger.jsonl").entries("dp-sgd")) == 2

        return train, check

    assert kill_at_every_write(prepare) >= 2 * 5  # the cohort, the loss, the update's name and bytes, the note


def test_a_loss_for_others_than_were_paid_for_is_paid(site: Site, tmp_path: Path) -> None:
    """A site that died over a round and then holds out others trains on others: the old entry is not about them."""
    site.release()

    def trained() -> None:
        site.train(1)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moretta.client.training.rounds.ResponseStore.keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained()
    path = site.home.root / "site.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("1001", "1002"), encoding="utf-8")
    trained()
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")) == 2


@pytest.mark.parametrize("number", [0, -1, 3, 10**6])
def test_a_round_that_the_study_has_not_is_refused_and_spends_nothing(site: Site, number: int) -> None:
    site.release()
    assert failure(site.train(number)).startswith("RefusedError" if number > 0 else "a message that is no Training")
    assert not Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")


def test_the_policys_budget_holds_against_repeated_requests(site: Site) -> None:
    site.home.policy_file.write_text(f"max_training_epsilon = 9.0\n{TRUSTED}", encoding="utf-8")
    site.release()
    responses = [site.train(1, {**WEIGHTS, "2.bias": np.full(6, i, np.float32)}) for i in range(6)]
    spent = [float(a[wire.METRICS]["epsilon"]) for a in responses if wire.METRICS in a]  # type: ignore[arg-type]
    assert spent
    assert max(spent) <= 9.0
    assert failure(responses[-1]) == "refused by the rule max_training_epsilon of the site's policy"
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("dp-sgd")) == len(spent)


def _raw(corpus: Path) -> Iterator[bytes]:
    """Pieces of every clip as it is, in each form in which samples are held anywhere, and what its files tell."""
    import soundfile

    for path in sorted(corpus.rglob("*.wav")):
        yield path.stem.encode()
        for kind in ("int16", "float32", "float64"):
            samples, _ = soundfile.read(path, dtype=kind)
            yield samples[4000:4064].tobytes()
    yield str(corpus).encode()
    yield from (b"1001_", b'"1001"', b"1002_", b'"1002"')


def _raise(self: Any, clips: Any, noise: Any, speakers: Any) -> Any:
    raise ValueError(f"cannot work on {clips[0][:64].tobytes()!r} of {clips}")


FAULTS = {
    "raises with the clip in its text": _raise,
    "gives the clip back as it is": lambda self, clips, noise, speakers: list(clips),
    "gives the clip as bytes": lambda self, clips, noise, speakers: [clip.tobytes() for clip in clips],
    "gives numbers that are not finite": lambda self, clips, noise, speakers: [
        np.full((9, 13), np.inf, np.float32) for _ in clips
    ],
    "gives too few": lambda self, clips, noise, speakers: [],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_failing_anonymizer_no_raw_byte_is_in_any_response(
    site: Site, tiny_corpus: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MfccQuantizer, "release", FAULTS[fault])
    site.everything()
    assert len(site.sent) > 500
    assert not [piece for piece in _raw(tiny_corpus) if piece in site.sent]


def test_with_a_whole_anonymizer_no_raw_byte_is_in_any_response(site: Site, tiny_corpus: Path) -> None:
    site.everything()
    assert len(site.sent) > 100_000
    assert not [piece for piece in _raw(tiny_corpus) if piece in site.sent]


def test_the_search_would_find_raw_bytes(site: Site, tiny_corpus: Path) -> None:
    """The control of the two tests above: a study that releases voices as they are, and a policy that lets it."""
    site.home.policy_file.write_text(f'anonymizers = ["none"]\n{TRUSTED}', encoding="utf-8")
    site.study = site.study.with_changes(voice__anonymizer="none", voice__form="waveform")
    site.public = {name: site.public[name] for name in ("voice/mean", "voice/std")}
    site.everything()
    assert sum(piece in site.sent for piece in _raw(tiny_corpus)) >= 48


def test_the_default_policy_and_the_name_of_the_anonymizer_let_the_default_study_run(site: Site) -> None:
    assert tomllib.loads(site.home.policy_file.read_text("utf-8"))["server_fingerprint"]
    site.everything()
    assert b"failure" not in site.sent
