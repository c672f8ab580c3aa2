from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from moretta.client.accounting.budget import BudgetLimits
from moretta.client.policy import Mechanisms, Policy, PolicyError, default_policy
from moretta.shared.core.errors import HomeError
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study, parse_study

TRUSTING = Policy(
    without_guarantee=(
        *("mfcc-quantizer", "emotion-label-rr", "speaker-normalized", "public-voice", "autoencoder"),
        "expression-track",
    )
)
FINGERPRINT = "ab" * 32
PAGE = Path(__file__).parents[2] / "docs" / "policy.md"


def study(**changes: Any) -> Study:
    return parse_study(changes)


def statement(
    epsilon: float | None, *, modality: Any = "voice", name: str = "x", noise: Any = "system", unit: Any = "clip"
):  # type: ignore[no-untyped-def]
    return AnonymizerStatement(
        modality=modality,
        name=name,
        version="1",
        form="mfcc",
        parameters={},
        privacy=(PrivacyStatement(mechanism="laplace", unit=unit, epsilon=epsilon),),
        noise=noise,
    )


def load(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def test_the_default_file_gives_every_rule_with_its_default_and_pins_the_server(tmp_path: Path) -> None:
    text = default_policy(FINGERPRINT)
    assert set(tomllib.loads(text)) == set(Policy.model_fields)
    assert load(tmp_path, text) == Policy(server_fingerprint=FINGERPRINT)
    assert load(tmp_path, "") == Policy()


def test_every_rule_and_its_default_stand_on_the_page_of_the_policy() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`\[?(\w+)\]?`", row.split("|")[1])}
    assert named == set(Policy.model_fields) | set(BudgetLimits.model_fields) | set(Mechanisms.model_fields)
    for table, defaults in (("budget", BudgetLimits()), ("mechanisms", Mechanisms())):
        assert tomllib.loads(default_policy(FINGERPRINT))[table] == defaults.model_dump()
        for rule, value in defaults.model_dump().items():
            (row,) = [r for r in rows if f"`{rule}`" in r.split("|")[1]]
            assert str(value) in row.split("|")[2]
    for rule, value in (
        Policy().model_dump(exclude={"budget", "mechanisms", "server_fingerprint", "bundle_digest"}).items()
    ):
        if value not in ("", ()):
            (row,) = [r for r in rows if f"`{rule}`" in r.split("|")[1]]
            shown = json.dumps(value) if isinstance(value, bool | tuple) else str(value)
            assert shown in row.split("|")[2]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("min_clip = 3\n", "min_clip"),
        ("min_clips = 0\n", "min_clips"),
        ("max_training_epsilon = nan\n", "max_training_epsilon"),
        ("max_training_epsilon = -1.0\n", "max_training_epsilon"),
        ('modalities = ["smell"]\n', "modalities"),
        ('server_fingerprint = "AB"\n', "server_fingerprint"),
        ('studies = ["short"]\n', "studies"),
        ("min_clips = [\n", "cannot be read"),
    ],
)
def test_an_unknown_rule_or_an_impossible_value_stops_the_site(tmp_path: Path, text: str, reported: str) -> None:
    with pytest.raises(HomeError, match=reported):
        load(tmp_path, text)


def test_a_site_without_a_policy_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="no policy at"):
        Policy.load(tmp_path / "policy.toml")


def test_the_default_study_may_run_where_the_steward_has_named_its_anonymizers() -> None:
    TRUSTING.check_study(Study())
    with pytest.raises(PolicyError, match="max_release_epsilon"):
        Policy().check_study(Study())


@pytest.mark.parametrize(
    ("voice", "face"),
    [
        ({"preset": "dp-clip"}, {"enabled": False}),
        ({"preset": "dp-speaker"}, {"enabled": False}),
        ({"anonymizer": "clip-statistics"}, {"enabled": False}),
        ({"anonymizer": "constant"}, {"anonymizer": "constant"}),
    ],
)
def test_the_default_policy_lets_through_what_guarantees_something(voice: Any, face: Any) -> None:
    Policy().check_study(study(voice=voice, face=face))


@pytest.mark.parametrize("names", [(), ("mfcc-quantizer",)])
def test_near_copies_of_clips_are_refused_even_of_an_anonymizer_that_is_trusted(names: tuple[str, ...]) -> None:
    """As found: without bounds, at epsilon 1e9, with 4,096 words of the site's own, what was released was the clip."""
    copies = study(
        voice={"preset": "original", "codebook": "local", "epsilon": 1e9, "codebook_size": 4096},
        face={"enabled": False},
    )
    with pytest.raises(PolicyError) as refused:
        Policy(without_guarantee=names).check_study(copies)
    assert refused.value.rule in ("max_value_epsilon", "max_release_epsilon")
    with pytest.raises(PolicyError, match="max_codebook_size"):
        Policy(without_guarantee=names).check_study(copies.with_changes(voice__options__epsilon=0.8))


@pytest.mark.parametrize(
    ("voice", "face", "rule"),
    [
        ({"epsilon": 2.0}, {}, "max_value_epsilon"),
        ({"sensitivity": 0.1}, {}, "max_value_epsilon"),
        ({"bound": 10.0}, {}, "max_value_epsilon"),
        ({"codebook_size": 512}, {}, "max_codebook_size"),
        ({"anonymizer": "emotion-label-rr", "label_epsilon": 12.0}, {}, "max_label_epsilon"),
        ({"anonymizer": "speaker-normalized", "code_noise": 0.0}, {}, "min_code_noise"),
        ({"anonymizer": "speaker-normalized", "code_size": 64}, {}, "max_code_size"),
        ({"anonymizer": "public-voice", "options": {"prosody": "words", "word_noise": 0.0}}, {}, "min_word_noise"),
        ({}, {"anonymizer": "expression-track", "clip_noise": 0.01}, "min_face_noise"),
        ({}, {"anonymizer": "expression-track", "frame_noise": 0.01}, "min_face_noise"),
    ],
)
def test_an_anonymizer_that_a_study_leaves_next_to_nothing_is_refused(voice: Any, face: Any, rule: str) -> None:
    requested = study(voice=voice, face=face)
    with pytest.raises(PolicyError) as refused:
        TRUSTING.check_study(requested)
    assert refused.value.rule == rule
    least = 0.0 if rule.startswith("min") else math.inf
    TRUSTING.model_copy(update={"mechanisms": Mechanisms(**{rule: least})}).check_study(requested)


def test_a_rule_may_limit_the_number_of_any_registered_anonymizer_and_a_misspelt_one_stops_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Study().voice.anonymizer
    monkeypatch.setattr(get_anonymizer("voice", name), "strength", classmethod(lambda cls, study: {"own_number": 3.0}))
    load(tmp_path, "[mechanisms]\nmin_own_number = 3\n").mechanisms.check(name, {"own_number": 3.0})
    with pytest.raises(PolicyError, match="min_own_number"):
        load(tmp_path, "[mechanisms]\nmin_own_number = 4\n").mechanisms.check(name, {"own_number": 3.0})
    with pytest.raises(HomeError, match="own_numbers"):
        load(tmp_path, "[mechanisms]\nmin_own_numbers = 4\n")


def test_no_site_fits_more_codewords_than_it_has_clips() -> None:
    local = study(voice={"codebook": "local"})
    Policy().check_codebook(local, 64)
    Policy().check_codebook(study(), 12)
    for few in (local, study(voice={"preset": "original"})):
        with pytest.raises(PolicyError, match="max_codebook_size"):
            Policy().check_codebook(few, 63)


def test_what_products_recommend_can_be_let_through_by_name() -> None:
    for voice in ("emotion-label-rr", "speaker-normalized", "mfcc-quantizer"):
        for face in ("expression-track", "autoencoder"):
            requested = study(voice={"anonymizer": voice}, face={"anonymizer": face})
            Policy(without_guarantee=(voice, face)).check_study(requested)
            with pytest.raises(PolicyError, match="max_release_epsilon"):
                Policy(without_guarantee=(voice,)).check_study(requested)


@pytest.mark.parametrize(
    ("rules", "changes", "rule"),
    [
        ({"modalities": ("voice",)}, {}, "modalities"),
        ({"modalities": ()}, {}, "modalities"),
        ({}, {"voice": {"anonymizer": "none"}}, "anonymizers"),
        ({}, {"face": {"anonymizer": "none"}}, "anonymizers"),
        ({"anonymizers": ("autoencoder",)}, {}, "anonymizers"),
        ({"allow_attributes": False}, {}, "allow_attributes"),
        ({"max_training_epsilon": 7.9}, {}, "max_training_epsilon"),
        ({}, {"privacy": {"dp_sgd": False}}, "max_training_epsilon"),
        ({}, {"privacy": {"delta": 0.02}}, "max_delta"),
    ],
)
def test_a_study_that_breaks_a_rule_is_refused_and_the_rule_is_named(
    rules: dict[str, Any], changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        TRUSTING.model_copy(update=rules).check_study(study(**changes))
    assert refused.value.rule == rule
    assert rule in refused.value.public_message
    assert f"the rule {rule} of the policy" in str(refused.value)


def test_what_a_rule_names_is_let_through() -> None:
    chosen = study(voice={"anonymizer": "none"}, privacy={"dp_sgd": False}, face={"enabled": False})
    named = {"anonymizers": ("none",), "without_guarantee": ("none",)}
    Policy(**named, max_training_epsilon=math.inf, studies=(chosen.digest(),)).check_study(chosen)


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        ("server_fingerprint", lambda p: p.check_pinned("server_fingerprint", "cd" * 32)),
        ("code_digest", lambda p: p.check_pinned("code_digest", "cd" * 32)),
        ("allow_seeded_noise", lambda p: p.check_noise(seeded=True)),
        ("min_clips", lambda p: p.check_clips(9, 5)),
        ("min_speakers", lambda p: p.check_clips(10, 1)),
        ("anonymizers", lambda p: p.check_release([statement(1.0, name="none")])),
        ("allow_seeded_noise", lambda p: p.check_release([statement(1.0, noise="seeded")])),
    ],
)
def test_each_other_rule_refuses_and_is_named(rule: str, check: Any) -> None:
    policy = Policy(server_fingerprint=FINGERPRINT, code_digest=FINGERPRINT, min_speakers=2)
    policy.check_pinned("server_fingerprint", FINGERPRINT)
    policy.check_pinned("code_digest", FINGERPRINT)
    policy.check_noise(seeded=False)
    policy.check_clips(10, 2)
    with pytest.raises(PolicyError) as refused:
        check(policy)
    assert refused.value.rule == rule


@pytest.mark.parametrize(
    "statements",
    [
        [statement(3.0), statement(2.1, modality="face")],  # both are of one clip: their losses add up
        [statement(None)],
        [statement(1.0, unit="frame")],  # nothing is said of a clip
    ],
)
def test_the_loss_of_a_release_counts_per_clip_over_both_modalities(statements: list[AnonymizerStatement]) -> None:
    limited = Policy(max_release_epsilon=5.0)
    limited.check_release([statement(3.0), statement(2.0, modality="face")])
    with pytest.raises(PolicyError, match="max_release_epsilon"):
        limited.check_release(statements)
    Policy(without_guarantee=("x",)).check_release(statements)
    with pytest.raises(PolicyError, match="max_release_epsilon"):
        Policy(without_guarantee=("y",)).check_release([statement(None), statement(None, name="y")])
