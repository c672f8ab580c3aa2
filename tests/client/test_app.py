from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata

from moretta.client.accounting.ledger import Ledger
from moretta.client.app import app
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.messages import wire
from moretta.shared.release import open_release
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study


def call(folder: Path | None, kind: str, content: RecordDict | None = None, *, partition: int = 0) -> RecordDict:
    """Response of the site to one message."""
    metadata = Metadata(1, "m", 0, 5, "", "", 1e9, 1e9, kind)
    run_config: dict[str, Any] = {} if folder is None else {"run-dir": str(folder)}
    context = Context(1, 5, {"partition-id": partition, "num-partitions": 2}, RecordDict(), run_config)
    reply = app(Message(content or RecordDict({wire.CONFIG: wire.json_config(version=1)}), metadata=metadata), context)
    assert reply.metadata.src_node_id == 5
    assert reply.has_content()
    return wire.unpacked(reply.content)


def requested(study: Study, arrays: dict[str, Any] | None = None, **values: Any) -> RecordDict:
    content = RecordDict({wire.CONFIG: wire.study_config(study, **values)})
    if arrays is not None:
        content[wire.ARRAYS] = wire.arrays_to_record(arrays)
    return content


def released(simulated: Any, partition: int = 0) -> RecordDict:
    return call(simulated.folder, wire.RELEASE, requested(simulated.study, simulated.public), partition=partition)


def trained(simulated: Any, weights: dict[str, Any], number: int) -> RecordDict:
    content = requested(simulated.study, weights)
    content[wire.CONFIG]["server-round"] = number  # type: ignore[index]
    return call(simulated.folder, wire.TRAIN["voice"], content)


WEIGHTS = {
    "0.mean": np.zeros(78, np.float32),
    "0.std": np.ones(78, np.float32),
    "2.weight": np.zeros((6, 78), np.float32),
    "2.bias": np.zeros(6, np.float32),
}


def test_hello_states_the_name_and_the_code_and_touches_no_clip(simulated: Any, tiny_corpus: Path) -> None:
    tiny_corpus.rename(tiny_corpus.with_name("gone"))
    answer = call(simulated.folder, wire.HELLO, partition=1)
    assert wire.from_config(answer, "site") == "site-01"
    assert wire.from_config(answer, "digest") == code_digest()


def test_a_release_is_fetched_chunk_by_chunk_and_arrives_whole(
    simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 10_000)
    answer = released(simulated)
    assert wire.from_config(answer, "training") == {"voice": 12}
    target = tmp_path / "server"
    target.mkdir()
    for name, size in wire.from_config(answer, "files").items():
        data = b""
        while len(data) < size:
            asked_for = [(name, len(data), 4_000), (name, len(data) + 4_000, 6_000)]
            part = call(simulated.folder, wire.FETCH, requested(simulated.study, parts=asked_for))
            chunk = wire.from_config(part, "chunk")
            assert hashlib.sha256(chunk).hexdigest() == wire.from_config(part, "sha256")
            data += chunk
        (target / name).write_bytes(data)
    release = open_release(target)
    assert len(list(release.arrays("voice"))) == 24
    assert release.statement.model_dump(mode="json") == wire.from_config(answer, "statement")


@pytest.mark.parametrize(
    "name",
    ["../../ledger.jsonl", "public.safetensors", "/etc/passwd", "../../../../plan.json", "", 7, ["statement.json"]],
)
def test_nothing_but_files_of_the_release_is_handed_out(simulated: Any, name: Any) -> None:
    released(simulated)
    answer = call(simulated.folder, wire.FETCH, requested(simulated.study, parts=[(name, 0, 10)]))
    assert "chunk" not in answer[wire.CONFIG]
    assert "a message that is no PartsWanted: parts.0.0" in wire.from_config(answer, "failure")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        "statement.json",
        [("statement.json", 0)],
        [("statement.json", -1, 10)],
        [("statement.json", 0, -1)],
        [("statement.json", 0, wire.CHUNK_BYTES), ("clips.jsonl", 0, 1)],
    ],
)
def test_a_request_for_parts_that_make_no_sense_or_are_too_many_is_refused(simulated: Any, parts: Any) -> None:
    released(simulated)
    answer = call(simulated.folder, wire.FETCH, requested(simulated.study, parts=parts))
    assert "chunk" not in answer[wire.CONFIG]
    reported = wire.from_config(answer, "failure")
    assert reported == "ReleaseError" or "a message that is no PartsWanted: parts" in reported


def test_files_of_an_unfinished_release_are_not_handed_out(simulated: Any) -> None:
    """Before the statement is there, the ledger may not have the loss."""
    released(simulated)
    folder = simulated.site().releases / simulated.study.digest()[:16]
    (folder / "statement.json").unlink()
    answer = call(simulated.folder, wire.FETCH, requested(simulated.study, parts=[("voice-00000.safetensors", 0, 10)]))
    assert "chunk" not in answer[wire.CONFIG]
    assert wire.from_config(answer, "failure") == "ReleaseError"


def test_training_responds_with_weights_and_an_epsilon_that_grows(simulated: Any) -> None:
    released(simulated)
    one, two = (trained(simulated, WEIGHTS, number) for number in (1, 2))
    epsilons = [float(answer[wire.METRICS]["epsilon"]) for answer in (one, two)]  # type: ignore[arg-type]
    assert 0 < epsilons[0] < epsilons[1] <= simulated.study.privacy.epsilon
    assert one[wire.METRICS]["num-examples"] == 12  # the held-out speaker's 12 clips are not trained on
    assert "loss" not in one[wire.METRICS]
    assert set(wire.arrays_of(one)) == set(WEIGHTS)
    assert not np.array_equal(wire.arrays_of(one)["2.weight"], wire.arrays_of(two)["2.weight"])  # noise drawn anew
    assert len(Ledger(simulated.site().ledger).entries("dp-sgd")) == 2


def test_training_before_the_release_is_refused_and_spends_nothing(simulated: Any) -> None:
    answer = trained(simulated, WEIGHTS, 1)
    assert wire.from_config(answer, "failure") == "RunError"
    assert not Ledger(simulated.site().ledger).entries("dp-sgd")


def test_a_site_whose_speakers_are_all_held_out_refuses_to_train(simulated: Any) -> None:
    loaded = SimulationPlan.load(simulated.folder)
    loaded.model_copy(update={"folds": (("1001", "1002"), ("1003", "1004"))}).save(simulated.folder)
    assert wire.from_config(released(simulated), "training") == {"voice": 0}
    answer = trained(simulated, WEIGHTS, 1)
    assert wire.from_config(answer, "failure") == "RefusedError"
    assert wire.from_config(answer, "code") == int(ExitCode.REFUSED)


def test_evaluation_responds_with_counts_of_held_out_pseudonyms(simulated: Any) -> None:
    released(simulated)
    content = requested(simulated.study)
    content[f"{wire.ARRAYS}-voice"] = wire.arrays_to_record(WEIGHTS)
    counts = wire.from_config(call(simulated.folder, wire.EVALUATE, content), "counts")
    assert set(counts) == {"voice", "voice/3"}
    assert set(counts["voice"]) == {simulated.site().pseudonyms().speaker("1001")}
    assert np.sum(list(counts["voice"].values())) == 12


FAILURES = [
    (wire.RELEASE, "StudyError"),  # a study without the arrays that its anonymizer needs
    (wire.FETCH, "ReleaseError"),
    (wire.TRAIN["voice"], "RefusedError"),
    (wire.TRAIN["face"], "RefusedError"),
]


@pytest.mark.parametrize(("kind", "failure"), FAILURES)
def test_a_failure_states_its_kind_and_nothing_else_and_the_log_has_the_rest(
    simulated: Any, kind: str, failure: str
) -> None:
    content = requested(simulated.study, {} if kind != wire.FETCH else None)
    config: Any = content[wire.CONFIG]
    if kind == wire.FETCH:
        config["parts"] = '[["voice-00000.safetensors", 0, 10]]'
    if kind.startswith("train"):
        config["server-round"] = 1
    answer = call(simulated.folder, kind, content)
    assert set(answer) == {wire.CONFIG}
    assert set(answer[wire.CONFIG]) == {"site", "failure", "code"}
    assert wire.from_config(answer, "failure") == failure
    log = (simulated.site().home / "site.log").read_text(encoding="utf-8")
    assert f"{kind} " in log
    assert failure in log


def test_a_missing_corpus_is_reported_without_its_path(simulated: Any, tiny_corpus: Path) -> None:
    tiny_corpus.rename(tiny_corpus.with_name("gone"))
    answer = released(simulated)
    assert wire.from_config(answer, "failure") == "CorpusError"
    reported = repr(dict(answer[wire.CONFIG]))
    assert str(tiny_corpus) not in reported
    assert "/" not in reported


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({wire.CONFIG: wire.json_config(study={"sites": 0})})])
def test_a_message_that_makes_no_sense_gets_a_response_too(simulated: Any, content: RecordDict) -> None:
    for kind in (wire.RELEASE, wire.FETCH, *wire.TRAIN.values(), wire.EVALUATE):
        reported = wire.from_config(call(simulated.folder, kind, content), "failure")
        assert reported in ("StudyError", "StudyProblems") or reported.startswith("a message that is no ")


def test_a_site_that_is_not_configured_refuses(simulated: Any) -> None:
    assert wire.from_config(call(None, wire.HELLO), "failure") == "RefusedError"
    assert wire.from_config(call(simulated.folder, wire.HELLO, partition=2), "failure") == "StudyError"


def test_a_log_that_cannot_be_written_does_not_reveal_its_place_to_the_server(simulated: Any) -> None:
    home = simulated.site().home
    home.parent.mkdir(parents=True)
    home.write_text("a file where the site's folder should be")
    answer = released(simulated)
    assert "failure" in answer[wire.CONFIG]
    assert str(simulated.folder) not in repr(dict(answer[wire.CONFIG]))


def test_the_app_can_be_sent_to_another_process_as_ray_does_in_a_simulation() -> None:
    from ray import cloudpickle

    assert cloudpickle.loads(cloudpickle.dumps(app)) is not None
