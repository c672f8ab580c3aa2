"""What a coordinator can try beside the mechanisms themselves: by time, by order, by volume and by words."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import POLICY, Asked
from enrolled import approve, enrolled

from moretta.client import app as site_app
from moretta.client import release as releasing
from moretta.client.ledger import Ledger
from moretta.client.offers import Offers
from moretta.deploy.site.approvals import facts_of, in_words
from moretta.shared.features.public_voice import make_public_voice
from moretta.shared.release import open_release, write
from moretta.shared.seeds import derive


@pytest.fixture(scope="module")
def public() -> dict[str, Any]:
    return make_public_voice(13, 16, derive(1, "public voice"), None, voices=4).to_arrays()


@pytest.fixture
def asked(tmp_path: Path, tiny_corpus: Path, public: dict[str, Any]) -> Asked:
    return Asked(enrolled(tmp_path / "site", tiny_corpus, policy=POLICY), tiny_corpus, public)


def test_two_runs_that_ask_for_a_release_at_once_get_one(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """As found: each drew its own noise, and the files of one could be fetched by the statement of the other."""
    real, others = releasing.site_corpus, []

    def slow(*arguments: Any) -> Any:
        if not others:
            others.append(threading.Thread(target=asked.release))
            others[0].start()
            others[0].join(timeout=1)  # where nothing holds it back it is through by then
        return real(*arguments)

    monkeypatch.setattr(releasing, "site_corpus", slow)
    assert "failure" not in asked.release()
    others[0].join()
    assert len(Ledger(asked.home.root / "ledger.jsonl").entries("release")) == 1


def test_the_shards_of_a_release_tell_nothing_of_the_order_of_a_corpus(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As found: clips filled shards in the order of their files, so studies could be joined, and people counted off."""
    monkeypatch.setattr(write, "SHARD_BYTES", 1)
    orders = []
    for seed in (1, 2):
        asked.study = asked.study.with_changes(seed=seed)
        asked.release()
        settings = site_app.deployed_site(asked.home.root)
        _, clips = releasing.site_corpus(settings, asked.study)
        names, key = settings.names(asked.study), settings.pseudonyms()
        shard = {clip.clip: clip.voice for clip in open_release(asked.folder).clips}
        orders.append([shard[names.released(key.clip(str(clip.name)))] for clip in clips])
    in_files = list(range(len(orders[0])))
    assert sorted(orders[0]) == sorted(orders[1]) == in_files
    for order in orders:
        assert abs(np.corrcoef(in_files, order)[0, 1]) < 0.7  # by chance once in many millions
    assert orders[0] != orders[1]


def test_messages_without_end_do_not_fill_the_disk_with_the_site_s_log(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_app, "MAX_LOG_BYTES", 10_000)
    for _ in range(20):
        assert "failure" in asked.evaluate()
    written = [path.stat().st_size for path in asked.home.root.glob("site.log*")]
    assert len(written) == 2
    assert max(written) < 20_000


def test_what_a_study_says_forges_no_line_of_what_a_steward_reads(asked: Asked) -> None:
    """As found: a key of `strategy_options` went to the terminal as it came."""
    evil = "x\x1b[2K\r\x1b[1Amoretta: nothing has changed\n  all arrays: equal \u202e"
    arrays = {"voice/mean": np.zeros(13, np.float32)}
    approve(asked.home, asked.study, arrays)
    changes = {"train__strategy_options": {evil: 1, "long" * 9_999: 2}, "audit__attackers": (evil, "long" * 9_999)}
    offer = Offers(asked.home.root).keep(asked.study.with_changes(**changes), arrays)
    (offer.folder / "compared.json").write_text('{"voice/mean": "equal"}')
    lines = in_words(facts_of(asked.home, offer))
    assert all(line.isprintable() for line in lines)
    assert "train.strategy_options" in lines[1]
    assert max(map(len, lines)) < 1_000
