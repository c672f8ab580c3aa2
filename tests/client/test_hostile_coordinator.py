"""Attempts of a coordinator outside the mechanisms themselves: by time, by order, by volume and by words."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import approve, enrolled
from requested import POLICY, RequestStage

from moretta.client import mods, site_log
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips import release as releasing
from moretta.client.offers import Offers, arrays_for
from moretta.deploy.site.approvals import offer_facts, offer_lines
from moretta.shared.core.errors import RefusedError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import make_public_voice
from moretta.shared.features.speaker_code import SpeakerCode
from moretta.shared.release import open_release, write_release
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import parse_study


@pytest.fixture(scope="module")
def public() -> dict[str, Any]:
    return make_public_voice(13, 16, derive(1, "public voice"), None, voices=4).to_arrays()


@pytest.fixture
def requested(tmp_path: Path, tiny_corpus: Path, public: dict[str, Any]) -> RequestStage:
    return RequestStage(enrolled(tmp_path / "site", tiny_corpus, policy=POLICY), tiny_corpus, public)


def test_two_runs_that_request_a_release_at_once_get_one(
    requested: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As found: each drew its own noise, and the files of one could be fetched by the statement of the other."""
    real, others = releasing.site_corpus, []

    def slow(*arguments: Any) -> Any:
        if not others:
            others.append(threading.Thread(target=requested.release))
            others[0].start()
            others[0].join(timeout=1)  # where nothing holds it back it is through by then
        return real(*arguments)

    monkeypatch.setattr(releasing, "site_corpus", slow)
    assert "failure" not in requested.release()
    others[0].join()
    assert len(Ledger(requested.home.root / "ledger.jsonl").entries("release")) == 1


def test_the_shards_of_a_release_reveal_nothing_of_the_order_of_a_corpus(
    requested: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As found: clips filled shards in the order of their files, so studies could be joined, and people counted off."""
    monkeypatch.setattr(write_release, "SHARD_BYTES", 1)
    orders = []
    for seed in (1, 2):
        requested.study = requested.study.with_changes(seed=seed)
        requested.release()
        settings = mods.deployed_site(requested.home.root)
        _, clips = releasing.site_corpus(settings, requested.study)
        names, key = settings.names(requested.study), settings.pseudonyms()
        shard = {clip.clip: clip.voice for clip in open_release(requested.folder).clips}
        orders.append([shard[names.released(key.clip(clip.name))] for clip in clips])
    in_files = list(range(len(orders[0])))
    assert sorted(orders[0]) == sorted(orders[1]) == in_files
    for order in orders:
        assert abs(np.corrcoef(in_files, order)[0, 1]) < 0.7  # by chance once in many millions
    assert orders[0] != orders[1]


def test_messages_without_end_do_not_fill_the_disk_with_the_site_s_log(
    requested: RequestStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_log, "MAX_LOG_BYTES", 1000)
    for _ in range(20):
        assert "failure" in requested.evaluate()
    written = [path.stat().st_size for path in requested.home.root.glob("site.log*")]
    assert len(written) == 2
    assert max(written) < 2000


def test_what_a_study_says_forges_no_line_of_what_a_steward_reads(requested: RequestStage) -> None:
    """As found: a key of `strategy_options` went to the terminal as it came."""
    evil = "x\x1b[2K\r\x1b[1Amoretta: nothing has changed\n  all arrays: equal \u202e"
    arrays = {"voice/mean": np.zeros(13, np.float32)}
    approve(requested.home, requested.study, arrays)
    changes = {"train__strategy_options": {evil: 1, "long" * 9_999: 2}, "audit__attackers": (evil, "long" * 9_999)}
    offer = Offers(requested.home.root).keep(requested.study.with_changes(**changes), arrays)
    (offer.folder / "compared.json").write_text('{"voice/mean": "equal"}')
    lines = offer_lines(offer_facts(requested.home, offer))
    assert all(line.isprintable() for line in lines)
    assert "train.strategy_options" in lines[1]
    assert max(map(len, lines)) < 1_000


def _codes(requested: RequestStage, public: dict[str, Any]) -> tuple[SpeakerCode, dict[str, Any]]:
    """A public code, and all arrays of a study whose sites train it on."""
    content = requested.study.model_dump(exclude={"voice"}) | {
        "voice": {"anonymizer": "speaker-normalized", "code_training": "federated", "codebook_size": 16}
    }
    requested.study = parse_study(content)
    width, generator = len(MEASUREMENTS), np.random.default_rng(1)
    projection, codewords = generator.normal(size=(width, 5)), generator.normal(size=(16, 5)).clip(-3, 3)
    code = SpeakerCode(np.ones(width, np.float32), projection.astype(np.float32), codewords.astype(np.float32))
    return code, public | code.to_arrays()


def test_a_code_that_sites_have_trained_is_taken_with_its_rounds_and_nothing_else_is(
    requested: RequestStage, public: dict[str, Any]
) -> None:
    """As found: the number of rounds comes with a trained code and was in no offer, so every such study was refused;
    and statistics of public speech, which nobody trains, could be replaced."""
    code, arrays = _codes(requested, public)
    digest = approve(requested.home, requested.study, arrays)
    settings = mods.deployed_site(requested.home.root)
    trained = replace(code, projection=code.projection * 2, rounds=20).to_arrays()
    taken = arrays_for(settings, requested.study, digest, trained)
    np.testing.assert_array_equal(taken["voice/speaker/projection"], trained["voice/speaker/projection"])
    np.testing.assert_array_equal(taken["voice/mean"], arrays["voice/mean"])
    for name, array in {
        "voice/mean": public["voice/mean"] + 1,
        "voice/codebook": public["voice/codebook"] * 2,
        "voice/speaker/spread": code.spread * 2,
        "voice/speaker/rounds": np.array([1], np.int64),
        "voice/speaker/projection": code.projection * np.float32(np.nan),
        "voice/speaker/codewords": code.codewords.astype(np.float64),
        "voice/speaker/hidden-weight": np.zeros((7, 7), np.float32),
    }.items():
        with pytest.raises(RefusedError, match="cannot have trained"):
            arrays_for(settings, requested.study, digest, {**trained, name: array})


def test_a_study_file_by_mail_opens_no_device_and_no_pipe(tmp_path: Path) -> None:
    """As found: `moretta site review STUDY.toml` read /dev/zero until memory ended, and waited at a pipe for ever."""
    (tmp_path / "speech").mkdir()
    for pipe in ("pipe", "speech/one.wav"):
        os.mkfifo(tmp_path / pipe)
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(StudyError, match="which is no file"):
            prepare_public(parse_study({"voice": {"enabled": False}, "face": {"weights": str(path)}}))
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "speech"):
        with pytest.raises(StudyError, match="no usable speech among 0"):
            prepare_public(parse_study({"face": {"enabled": False}, "voice": {"public_speech": str(path)}}))
