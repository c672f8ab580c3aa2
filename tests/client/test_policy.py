from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from moretta.client.policy import Policy, PolicyError, default_policy
from moretta.shared.errors import HomeError
from moretta.shared.release.format import AnonymizerStatement, PrivacyStatement
from moretta.shared.study import Study, parse_study

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
    assert named == set(Policy.model_fields)
    for rule, value in Policy().model_dump(exclude={"budget", "server_fingerprint", "bundle_digest"}).items():
        if value not in ("", ()):
            (row,) = [r for r in rows if f"`{rule}`" in r.split("|")[1]]
            shown = json.dumps(value) if isinstance(value, bool | tuple) else str(value)
            assert shown in row.split("|")[2]


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_an_unknown_rule_or_an_impossible_value_stops_the_site(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(HomeError, match=told):
        load(tmp_path, text)


def test_a_site_without_a_policy_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="no policy at"):
        Policy.load(tmp_path / "policy.toml")


def test_the_default_study_may_run() -> None:
    Policy().check_study(Study())


@pytest.mark.parametrize(
    ("rules", "changes", "rule"),
    [
        ({"studies": ("0" * 64,)}, {}, "studies"),
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
        Policy(**rules).check_study(study(**changes))
    assert refused.value.rule == rule
    assert rule in refused.value.told
    assert f"the rule {rule} of the policy" in str(refused.value)


def test_what_a_rule_names_is_let_through() -> None:
    chosen = study(voice={"anonymizer": "none"}, privacy={"dp_sgd": False}, face={"enabled": False})
    Policy(anonymizers=("none",), max_training_epsilon=math.inf, studies=(chosen.digest(),)).check_study(chosen)


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        ("server_fingerprint", lambda p: p.check_server("cd" * 32)),
        ("code_digest", lambda p: p.check_code("cd" * 32)),
        ("allow_seeded_noise", lambda p: p.check_noise(seeded=True)),
        ("min_clips", lambda p: p.check_clips(9, 5)),
        ("min_speakers", lambda p: p.check_clips(10, 1)),
        ("anonymizers", lambda p: p.check_release([statement(1.0, name="none")])),
        ("allow_seeded_noise", lambda p: p.check_release([statement(1.0, noise="seeded")])),
    ],
)
def test_each_other_rule_refuses_and_is_named(rule: str, check: Any) -> None:
    policy = Policy(server_fingerprint=FINGERPRINT, code_digest=FINGERPRINT, min_speakers=2)
    policy.check_server(FINGERPRINT)
    policy.check_code(FINGERPRINT)
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
    Policy().check_release(statements)
