"""Both sides of a federated code together: the real ClientApp trains with the server and releases in the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.supercore.task_identity import TaskIdentity
from planted import planted_clips, planted_encoder, planted_people, planted_voices

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers import adversarial_embedding, unlearnt_gender
from moretta.client.app import app
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import simulated_site
from moretta.server.grid.site_grid import LOST, REFUSED, SiteGrid, SiteResponse
from moretta.server.stages.run import RunContext
from moretta.server.stages.train import federate_code
from moretta.shared.data.recordings import read_sound
from moretta.shared.features import speaker_code
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import SpeakerCode, public_rows
from moretta.shared.messages import wire
from moretta.shared.messages.calls import RESPONSES
from moretta.shared.messages.message import read
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release import open_release
from moretta.shared.release.anonymizer import anonymizer_of, prepare_public
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import parse_study

SITES = ("site-00", "site-01")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    few = public_rows(synthetic_speakers(1, voices=4, clips=12), in_windows=False)
    monkeypatch.setattr(speaker_code, "_measured_public_speech", lambda *_: few)


class Sites(SiteGrid):
    """A grid whose sites are functions of this process."""

    def __init__(self, network: Any) -> None:
        nobody: Any = None
        super().__init__(nobody, 60.0, nodes=network.nodes)
        self._network = network

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        replies = []
        for message in sorted(messages, key=lambda each: self.nodes[each.metadata.dst_node_id]):
            site, call = self.nodes[message.metadata.dst_node_id], message.metadata.message_type
            found = self._network.respond(call, message.content, site)
            made = Error(LOST if found.lost else REFUSED, found.failure) if found.content is None else found.content
            replies.append(Message(made, reply_to=message))
        return replies


@dataclass
class Network:
    """Sites that are sites are the real ClientApp, one call each."""

    folder: Path
    requested: list[tuple[str, str]] = field(default_factory=list)

    @property
    def nodes(self) -> dict[int, str]:
        return dict(enumerate(SITES))

    def respond(self, call: str, content: RecordDict, name: str) -> SiteResponse:
        return self.responded(call, content, name)

    def responded(self, call: str, content: RecordDict, name: str) -> SiteResponse:
        self.requested.append((call, name))
        metadata = Metadata(1, "m", 0, 5, "", "", 1e9, 1e9, call)
        config = {"partition-id": SITES.index(name), "num-partitions": 2}
        context = Context(1, 5, config, RecordDict(), {"run-dir": str(self.folder)})
        reply = wire.unpacked(app(Message(content, metadata=metadata), context).content)
        if "failure" in reply[wire.CONFIG]:  # type: ignore[operator]
            return SiteResponse(name, None, wire.from_config(reply, "failure"))
        return SiteResponse(name, reply, message=read(RESPONSES[call], reply))


@pytest.fixture
def folder(tmp_path: Path, tiny_corpus: Path) -> Path:
    voice = {"anonymizer": "speaker-normalized", "code_training": "federated", "code_rounds": 3, "codebook_size": 16}
    return planned(tmp_path, tiny_corpus, voice)


def planned(tmp_path: Path, corpus: Path, voice: dict[str, Any], **options: Any) -> Path:
    study = parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})
    changes = {f"voice__options__{name}": value for name, value in ({"code_epsilon": 0.0} | options).items()}
    plan = SimulationPlan(
        corpus=corpus,
        corpus_name="tones",
        synthetic=False,
        study=study.with_changes(**changes),
        sites=tuple(
            PlannedSite(name=name, speakers=(1001 + 2 * number, 1002 + 2 * number)) for number, name in enumerate(SITES)
        ),
        folds=(("1001", "1003"), ("1002", "1004")),
        command="moretta simulate",
    )
    plan.save(tmp_path / "run")
    return tmp_path / "run"


def trained(folder: Path, network: Network) -> tuple[RunContext, dict[str, Any]]:
    context = RunContext(folder, SimulationPlan.load(folder))
    public, _ = federate_code(context, Sites(network), prepare_public(context.study))
    return context, public


def test_two_sites_train_the_code_of_their_releases(folder: Path) -> None:
    network = Network(folder)
    context, arrays = trained(folder, network)
    assert network.requested == [(wire.CODE, name) for _ in range(3) for name in SITES]
    assert not context.progress.warnings
    code = SpeakerCode.from_arrays(arrays)
    assert code.rounds == 3
    before = prepare_public(context.study)["voice/speaker/projection"]
    assert not np.allclose(code.projection, before, atol=0.05)
    content = RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record({k: a for k, a in arrays.items() if k.startswith("voice/")}),
            wire.CONFIG: wire.study_config(context.study),
        }
    )
    for name in SITES:
        response = network.responded(wire.RELEASE, content, name).content
        assert response is not None
        [statement] = wire.from_config(response, "statement")["anonymizers"]
        assert statement["parameters"]["code_rounds"] == 3
        assert {p["unit"] for p in statement["privacy"] if "federated code" in p["mechanism"]} == {"clip", "speaker"}
        account = Account.read(Ledger(simulated_site(folder, SITES.index(name)).ledger))
        assert account.epsilon("speaker", "model", delta=1e-3) is None  # trained without noise, and said so


def test_a_server_that_died_over_it_requests_again_and_gets_the_same_code_at_no_cost(folder: Path) -> None:
    _, once = trained(folder, Network(folder))
    written = [Ledger(simulated_site(folder, number).ledger).length for number in (0, 1)]
    _, again = trained(folder, Network(folder))
    np.testing.assert_array_equal(again["voice/speaker/projection"], once["voice/speaker/projection"])
    assert [Ledger(simulated_site(folder, number).ledger).length for number in (0, 1)] == written


@pytest.fixture
def _planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Public people of published systems, and a stand-in for a public network."""
    monkeypatch.setattr(adversarial_embedding, "embedded", lambda *_: planted_voices(width=256))
    monkeypatch.setattr(unlearnt_gender, "_public_clips", lambda modalities, _: planted_clips(modalities, each=6))
    monkeypatch.setattr(speaker_code, "_measured_public_speech", lambda *_: planted_people())
    unlearnt_gender._trained.cache_clear()
    with planted_encoder():
        yield
    unlearnt_gender._trained.cache_clear()


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize("name", ["replacement-autoencoder", "unlearnt-gender", "adversarial-embedding"])
@pytest.mark.parametrize(("unit", "epsilon"), [("clip", 900.0), ("speaker", 0.0)])
def test_two_sites_release_by_the_published_encoder_that_they_trained(
    tmp_path: Path, tiny_corpus: Path, name: str, unit: Any, epsilon: float
) -> None:
    """The epsilon is one at which twelve clips a site exceed their noise."""
    options = {"code_training": "federated", "code_rounds": 3, "code_unit": unit, "epochs": 10}
    folder = planned(tmp_path, tiny_corpus, {"anonymizer": name, "options": options}, code_epsilon=epsilon)
    network = Network(folder)
    context, arrays = trained(folder, network)
    public, study = prepare_public(context.study), context.study
    assert not context.progress.warnings
    before, after = (anonymizer_of(study, "voice").from_study(study, found) for found in (public, arrays))
    sent = {key: array for key, array in arrays.items() if not np.array_equal(array, public[key])}
    content = RecordDict({wire.ARRAYS: wire.arrays_to_record(arrays), wire.CONFIG: wire.study_config(study)})
    assert any(key.endswith("rounds") for key in sent) and len(sent) > 4
    for number, site in enumerate(SITES):
        response = network.responded(wire.RELEASE, content, site)
        assert not response.failure, response.failure
        settings = simulated_site(folder, number)
        release = open_release(settings.release_of(study))
        statement = release.anonymizer("voice")
        assert statement is not None and statement.parameters["code_rounds"] == 3
        sounds = [read_sound(clip) for clip in site_corpus(settings, study)[1]]
        ours, theirs = ([made.release_clip(s, SeededNoise(1), "a") for s in sounds] for made in (after, before))
        for _, array in release.arrays("voice"):
            ours_apart, theirs_apart = (min(np.abs(array - one).max() for one in made) for made in (ours, theirs))
            assert ours_apart < 1e-5 < theirs_apart
        spent = Account.read(Ledger(settings.ledger)).epsilon(unit, "model", delta=1e-5)
        assert spent is None if epsilon == 0 else spent is not None and 0 < spent <= epsilon
