"""A site responds only to approved studies, and uses the very arrays that were approved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from enrolled import TRUSTED, approve, enrolled
from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata

from moretta.client import offers
from moretta.client.anonymizers import autoencoder
from moretta.client.app import app
from moretta.client.clips import release as releasing
from moretta.client.offers import Offers
from moretta.client.site_home import SiteHome
from moretta.deploy.site.approvals import offer_facts, offer_lines
from moretta.shared.core.errors import HomeError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.public_speech import make_public_voice
from moretta.shared.messages import wire
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, autoencoder_arrays
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.public_arrays import approval_digest, described
from moretta.shared.study.schema import Study, parse_study

Arrays = dict[str, np.ndarray]
WEIGHTS = {"2.weight": np.zeros((6, 78), np.float32)}
NOT_APPROVED = "the site's steward has not approved this study with these arrays"


def a_study(**changes: Any) -> Study:
    content = {"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": {"codebook_size": 16}}
    return parse_study({**content, **changes})


@pytest.fixture(scope="module")
def honest() -> Arrays:
    """Arrays that follow from the study: made of synthetic speech by its seed."""
    return prepare_public(a_study())


@pytest.fixture
def home(tmp_path: Path, tiny_corpus: Path) -> SiteHome:
    return enrolled(tmp_path / "site", tiny_corpus, held_out=("1001",))


def call(home: SiteHome, kind: str, study: Study, arrays: Arrays | None = None, **values: Any) -> dict[str, Any]:
    number = values.pop("server_round", None)
    content = RecordDict({wire.CONFIG: wire.study_config(study, **values)})
    if number is not None:
        content[wire.CONFIG]["server-round"] = number  # type: ignore[index]
    if arrays is not None:
        content[wire.ARRAYS] = wire.arrays_to_record(arrays)
    context = Context(1, 5, {"site-home": str(home.root)}, RecordDict(), {})
    reply = app(Message(content, metadata=Metadata(1, "m", 0, 5, "", "", 1e9, 1e9, kind)), context)
    config = reply.content[wire.CONFIG]
    return {key: wire.from_config(RecordDict({wire.CONFIG: config}), key) for key in config}  # type: ignore[dict-item]


def offer(home: SiteHome, study: Study, arrays: Arrays | None, digest: str | None = None) -> dict[str, Any]:
    whole = digest or approval_digest(study, described(arrays or {}))
    return call(home, wire.OFFER, study, arrays, approval=whole)


def test_without_approval_there_is_no_response_and_no_clip_is_read(
    home: SiteHome, honest: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "_read_voice", lambda clip: pytest.fail("a clip was read"))
    study = a_study()
    assert offer(home, study, honest)["state"] == "pending"
    digest = approval_digest(study, described(honest))
    for answer in (
        call(home, wire.RELEASE, study, approval=digest),
        call(home, wire.RELEASE, study, honest),
        call(home, wire.FETCH, study, parts=[["clips.jsonl", 0, 9]]),
        call(home, wire.EVALUATE, study),
        *(call(home, kind, study, WEIGHTS, server_round=1) for kind in (wire.CODE, *wire.TRAIN.values())),
        call(home, wire.SECURE_KEYS, study, session="s", modality="voice", round=1),
    ):
        assert answer["failure"] == NOT_APPROVED
    assert not (home.root / "ledger.jsonl").exists()


def test_what_was_approved_is_what_is_used_whatever_a_later_message_brings(home: SiteHome, honest: Arrays) -> None:
    """As found: the steward approved the study, and the codebook came with the message."""
    study = a_study()
    offer(home, study, honest)
    digest = approval_digest(study, described(honest))
    Offers(home.root).decide(Offers(home.root).all()[0], "approved", "steward")
    assert offer(home, study, None, digest)["state"] == "approved"
    spiked = {**honest, "voice/codebook": honest["voice/codebook"] + 1}
    assert call(home, wire.RELEASE, study, spiked, approval=digest)["failure"] == NOT_APPROVED
    other = approval_digest(study, described(spiked))
    assert call(home, wire.RELEASE, study, approval=other)["failure"] == NOT_APPROVED
    assert call(home, wire.RELEASE, study)["failure"] == NOT_APPROVED
    assert call(home, wire.RELEASE, study.with_changes(seed=2), approval=digest)["failure"] == NOT_APPROVED
    assert not (home.root / "ledger.jsonl").exists()
    answer = call(home, wire.RELEASE, study, approval=digest)
    assert answer["statement"]["clips"] == 48


def test_arrays_that_changed_on_the_disk_are_not_used(home: SiteHome, honest: Arrays) -> None:
    study = a_study()
    digest = approve(home, study, honest)
    path = home.root / "offers" / digest / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert call(home, wire.RELEASE, study, approval=digest)["failure"] == "HomeError"


def test_a_refused_offer_stays_refused_and_its_arrays_are_gone(home: SiteHome, honest: Arrays) -> None:
    study = a_study()
    offer(home, study, honest)
    (waiting,) = Offers(home.root).pending()
    Offers(home.root).decide(waiting, "refused", "steward")
    assert offer(home, study, honest)["state"] == "refused"
    assert not waiting.folder.exists()
    assert Offers(home.root).pending() == []


@pytest.mark.parametrize("text", ["auto_approve = true\n", 'studies = ["{digest}"]\n'])
def test_only_what_this_site_makes_again_is_approved_without_a_steward(
    home: SiteHome, honest: Arrays, text: str
) -> None:
    study = a_study()
    home.policy_file.write_text(text.format(digest=study.digest()) + TRUSTED)
    rounded = {**honest, "voice/mean": honest["voice/mean"] * np.float32(1 + 1e-6)}
    spiked = {**honest, "voice/codebook": honest["voice/codebook"] + np.float32(0.1)}
    assert offer(home, study, honest)["state"] == "approved"
    assert offer(home, study, spiked)["state"] == "pending"
    (waiting,) = Offers(home.root).pending()
    facts = offer_facts(home, waiting)
    assert facts["arrays"] == {name: "different" if name == "voice/codebook" else "equal" for name in honest}
    assert offers._verdict(rounded["voice/mean"], honest["voice/mean"]) == "close"  # another machine's, made again
    assert offer(home, study, rounded)["state"] == "pending", "shipped arrays are the same on all machines"
    assert facts["changed_arrays"]
    assert facts["changed_keys"] == []
    assert any("DIFFERENT" in line for line in offer_lines(facts))
    home.policy_file.write_text(home.policy_file.read_text() + f'public_arrays = ["{waiting.arrays_digest}"]\n')
    assert offer(home, study, None, waiting.digest)["state"] == "approved"
    log = [json.loads(line) for line in (home.root / "approvals.jsonl").read_text().splitlines()]
    assert [line["decision"] for line in log] == ["approved"] * 2
    assert {line["how"] for line in log} == {"auto_approve" if "auto" in text else "studies"}


def test_arrays_of_the_coordinator_s_own_speech_wait_for_the_steward(home: SiteHome) -> None:
    """As found: a projection with a chosen row turns a bound into an oracle."""
    study = a_study()
    other = make_public_voice(13, 16, derive(99, "public voice"), None).to_arrays()
    home.policy_file.write_text("auto_approve = true\n" + TRUSTED)
    assert offer(home, study, other)["state"] == "pending"


def test_a_changed_study_is_another_offer_and_shows_what_has_changed(home: SiteHome, honest: Arrays) -> None:
    study = a_study()
    approve(home, study, honest)
    changed = study.with_changes(voice__options__epsilon=1.0, train__rounds=3)
    assert offer(home, changed, honest)["state"] == "pending"
    facts = offer_facts(home, Offers(home.root).pending()[0])
    assert facts["changed_keys"] == ["train.rounds (10 -> 3)", "voice.options.epsilon (0.8 -> 1.0)"]
    assert facts["changed_arrays"] == []


@pytest.mark.parametrize(
    ("arrays", "failure"),
    [
        ({"voice/mean": np.array([np.nan] * 13, np.float32)}, None),
        ({"voice/std": np.array([np.inf] * 13, np.float32)}, None),
        ({"voice/codebook": np.zeros((8, 13), np.float32)}, None),
        ({f"x{i}": np.zeros(1, np.float32) for i in range(401)}, "StudyError"),
        ({"x": np.array(["text"])}, "ReleaseError"),
    ],
)
def test_an_offer_that_cannot_be_is_not_kept(
    home: SiteHome, honest: Arrays, arrays: Arrays, failure: str | None
) -> None:
    answer = offer(home, a_study(), {**honest, **arrays})
    assert failure is None or answer["failure"] == failure
    assert "failure" in answer
    assert not list(Offers(home.root).all())


def test_a_digest_is_of_what_came_with_it(home: SiteHome, honest: Arrays) -> None:
    assert offer(home, a_study(), honest, "0" * 64)["failure"] == "RefusedError"
    assert offer(home, a_study(), None, "0" * 64)["state"] == "unknown"


def test_offers_are_few_and_their_owner_s_alone(home: SiteHome, honest: Arrays) -> None:
    home.policy_file.write_text("max_pending = 2\n" + TRUSTED)
    for seed in (1, 2):
        assert offer(home, a_study(seed=seed), honest)["state"] == "pending"
    assert "rule max_pending" in offer(home, a_study(seed=3), honest)["failure"]
    assert offer(home, a_study(), honest)["state"] == "pending"  # the same again is no other
    for root in ("offers", "approvals"):
        for path in (home.root / root).rglob("*"):
            assert path.stat().st_mode & 0o077 == 0


def test_an_offer_whose_study_this_version_does_not_know_is_named(home: SiteHome, honest: Arrays) -> None:
    offer(home, a_study(), honest)
    (path,) = (home.root / "offers").glob("*/offer.json")
    path.write_text(path.read_text("utf-8").replace('"seed"', '"a_key_of_another_version"'), "utf-8")
    with pytest.raises(HomeError, match=path.parent.name):
        Offers(home.root).pending()


def test_a_decision_that_the_disk_does_not_take_is_none(
    home: SiteHome, honest: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(home, a_study(), honest)
    offers, real = Offers(home.root), os.write
    (waiting,) = offers.pending()
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError, match="disk is full"):
        offers.decide(waiting, "approved", "steward")
    monkeypatch.undo()
    assert offers.decision(waiting.digest) is None
    assert (home.root / "approvals.jsonl").read_bytes() == b""


@pytest.mark.parametrize(("section", "key"), [("face", "weights"), ("voice", "public_speech")])
def test_a_study_that_names_a_file_ends_at_once(home: SiteHome, tmp_path: Path, section: str, key: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe")):
        named = a_study().model_dump(mode="json")
        named[section][key] = path
        config = wire.json_config(study=named, approval="0" * 64)
        context = Context(1, 5, {"site-home": str(home.root)}, RecordDict(), {})
        metadata = Metadata(1, "m", 0, 5, "", "", 1e9, 1e9, wire.OFFER)
        reply = app(Message(RecordDict({wire.CONFIG: config}), metadata=metadata), context)
        assert wire.from_config(reply.content, "failure") == "StudyError"


def _network(seed: int = 1) -> Arrays:
    torch.manual_seed(seed)
    model = Autoencoder(AutoencoderSpec.preset("small"))
    return {f"face/{name}": array for name, array in autoencoder_arrays(model).items()}


def test_an_autoencoder_that_gives_faces_back_is_refused_and_any_other_waits_for_the_steward(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As found: an identity network passed as an autoencoder. Honest ones err by 0.07 or more, on values in [0, 1]."""
    study = parse_study({"voice": {"enabled": False}, "sites": 2})
    home.policy_file.write_text("auto_approve = true\n" + TRUSTED)
    arrays = _network()
    assert offer(home, study, arrays)["state"] == "pending"
    assert set(offer_facts(home, Offers(home.root).pending()[0])["arrays"].values()) == {"unknown"}
    monkeypatch.setattr("moretta.shared.models.autoencoder.Reconstructor.__call__", _identity)
    assert "rule min_face_error" in offer(home, study, _network(2))["failure"]


def test_the_autoencoder_that_comes_with_the_package_needs_no_steward(home: SiteHome) -> None:
    study = parse_study({"voice": {"enabled": False}, "sites": 2})
    home.policy_file.write_text("auto_approve = true\n" + TRUSTED)
    assert offer(home, study, prepare_public(study))["state"] == "approved"


@pytest.mark.parametrize(
    "shown", [lambda x: 1 - x, lambda x: x[..., ::-1], lambda x: 0.2 + x / 4], ids=["negative", "swapped", "pale"]
)
def test_a_network_that_gives_faces_back_in_other_colours_hides_no_more(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, shown: Any
) -> None:
    """As found: a negative is as far from the face as can be, and is the face."""
    study = parse_study({"voice": {"enabled": False}, "sites": 2})
    monkeypatch.setattr("moretta.shared.models.autoencoder.Reconstructor.__call__", lambda s, p: _identity(s, shown(p)))
    assert "rule min_face_error" in offer(home, study, _network())["failure"]


def _identity(self: object, pictures: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(pictures * 255), np.uint8)


def test_a_near_identity_differs_from_an_honest_network_by_its_error() -> None:
    rng = np.random.default_rng(1)
    faces = rng.random((2, 8, 8, 3))
    assert autoencoder.difference(faces, np.clip(faces + rng.normal(0, 0.02, faces.shape), 0, 1)) < 0.04
    assert autoencoder.difference(faces, np.clip(faces + rng.normal(0, 0.1, faces.shape), 0, 1)) > 0.04
