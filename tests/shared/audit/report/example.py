"""A report with made-up but plausible figures, for tests and for looking at the page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moretta.shared.audit.report.report_schema import (
    CorpusPart,
    DropCount,
    EmotionResult,
    EmotionResults,
    GatePart,
    PrivacyRow,
    Report,
    RoundRow,
    RunPart,
    SiteRow,
    StageRow,
    emotion_result,
)
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.audit.result import Result
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import GateSection

SITES = tuple(f"site-{index:02d}" for index in range(1, 7))
SPEAKERS = 12
CHANCE = 1 / SPEAKERS

TOP1 = {
    ("voice", "unprotected"): (0.94, 0.97, 0.91, 0.89),
    ("voice", "ignorant"): (0.10, 0.12, 0.09, 0.11),
    ("voice", "lazy-informed"): (0.31, 0.22, 0.27, 0.34),
    ("voice", "semi-informed"): (0.562, 0.47, 0.51, 0.36),
    ("voice", "constant"): (0.08, 0.09, 0.08, 0.08),
    ("face", "unprotected"): (0.99, 0.96, 0.97, 0.99),
    ("face", "ignorant"): (0.41, 0.22, 0.19, 0.47),
    ("face", "lazy-informed"): (0.72, 0.61, 0.55, 0.68),
    ("face", "semi-informed"): (0.91, 0.83, 0.79, 0.70),
    ("face", "constant"): (0.08, 0.08, 0.08, 0.08),
}
ATTACKERS = {
    "voice": {
        "logistic-regression": "adaptive",
        "mfcc-cnn": "adaptive",
        "random-forest": "adaptive",
        "campplus": "pretrained",
    },
    "face": {
        "small-resnet": "adaptive",
        "logistic-regression": "adaptive",
        "random-forest": "adaptive",
        "sface": "pretrained",
    },
}
INVALID_REASON = "did not break unprotected data: EER 41.2 %, needs at most 30 %"


def emotion(seed: int, skill: float, *, speakers: int = 4, clips: int = 24, classes: int = 6) -> EmotionResult:
    """A result of a model that is right with probability about `skill`."""
    generator = np.random.default_rng(seed)
    truth = np.tile(np.arange(classes), speakers * clips // classes)
    scores = generator.random((len(truth), 6))
    right = generator.random(len(truth)) < skill
    scores[np.flatnonzero(right), truth[right]] += 1.0
    people = [f"p{index * speakers // len(truth)}" for index in range(len(truth))]
    return emotion_result(scores, truth, people, seed=seed, draws=200, model="statistics + linear")


def audit(modalities: tuple[str, ...] = ("voice", "face")) -> Iterator[Result]:
    for (modality, scenario), values in TOP1.items():
        if modality not in modalities:
            continue
        for (attacker, kind), top1 in zip(ATTACKERS[modality].items(), values, strict=True):
            eer = max(0.01, 0.5 - 0.5 * (top1 - CHANCE))
            for metric, value, chance in (("top1", top1, CHANCE), ("eer", eer, 0.5), ("d_sys", 1 - 2 * eer, 0.0)):
                yield Result(
                    modality=modality,
                    attacker=attacker,
                    kind=kind,
                    scenario=scenario,
                    metric=metric,
                    value=value,
                    low=max(0.0, value - 0.06),
                    high=min(1.0, value + 0.07),
                    chance=chance,
                    speakers=SPEAKERS,
                    clips=288,
                )
    if "voice" in modalities:
        yield from _odd_rows()


def _odd_rows() -> Iterator[Result]:
    for scenario, value in (("unprotected", 0.412), ("semi-informed", 0.02)):
        yield Result(
            modality="voice", attacker="mlp-3", kind="adaptive", scenario=scenario, metric="eer", value=value, low=0.01,
            high=0.45, chance=0.5, speakers=SPEAKERS, clips=288, invalid=True, reason=INVALID_REASON,
        )  # fmt: skip
    yield Result(
        modality="voice", attacker="ge2e", kind="pretrained", scenario="unprotected", metric="eer", value=None,
        chance=0.5, speakers=12, clips=0, invalid=True,
        reason="weights not found; get them with: moretta attackers fetch ge2e",
    )  # fmt: skip
    for subset, pooled, value in (
        ("female", 1, 0.52),
        ("male", 1, 0.59),
        ("worst", 1, 0.96),
        ("all", 3, 0.71),
        ("all", 10, 0.83),
    ):
        yield Result(
            modality="voice", attacker="logistic-regression", kind="adaptive", scenario="semi-informed", metric="top1",
            value=value, low=value - 0.1, high=min(1.0, value + 0.1), chance=CHANCE,
            speakers=6 if "male" in subset else SPEAKERS,
            clips=144, subset=subset, pooled=pooled,
        )  # fmt: skip


def inference() -> Iterator[Result]:
    def finding(**changes: object) -> Result:
        common = {"modality": "voice", "chance": 0.5, "speakers": SPEAKERS, "clips": 288}
        return Result.model_validate(common | changes)

    sex = {"attack": "attribute", "target": "sex", "metric": "balanced_accuracy"}
    yield finding(**sex, attacker="logistic regression", scenario="unprotected", value=0.96, low=0.93, high=0.99)
    yield finding(**sex, attacker="logistic regression", scenario="semi-informed", value=0.883, low=0.82, high=0.94)
    invalid = {"attacker": "none", "metric": "none", "value": None, "chance": None, "clips": 0, "invalid": True}
    few = "needs 4 people of each of two classes or more, there are: 12 middle"
    yield finding(attack="attribute", target="age group", scenario="semi-informed", reason=few, **invalid)
    eer = {"attack": "inversion", "target": "speaker", "metric": "eer", "speakers": 6, "clips": 72}
    yield finding(**eer, attacker="campplus", scenario="unprotected", value=0.014, low=0.0, high=0.04)
    yield finding(**eer, attacker="campplus", scenario="ignorant", value=0.472, low=0.36, high=0.54)
    decoded = "mlp decoder, read by campplus"
    yield finding(**eer, attacker=decoded, scenario="decoded", value=0.417, low=0.35, high=0.54)
    link = {"attack": "cross-modal", "modality": "both", "target": "face of the voice", "scenario": "semi-informed"}
    yield finding(**link, attacker="ridge", metric="one_of_two", value=0.52, low=0.41, high=0.63)
    member = {"attack": "membership", "target": "membership of training clips", "scenario": "model", "attacker": "rmia"}
    yield finding(**member, metric="auc", value=0.633, low=0.58, high=0.69, p_value=0.21, note="speaker-level")
    why = "132 clips of other people cannot resolve a false-positive rate of 0.001: at least 1000 are needed"
    rate = {"metric": "tpr_at_fpr_01pct", "value": None, "chance": 0.001, "invalid": True, "reason": why}
    yield finding(**member | rate)
    layer = {"attack": "updates", "target": "sex", "scenario": "updates", "metric": "balanced_accuracy", "speakers": 6}
    yield finding(**layer, attacker="logistic regression", layer="2.weight", value=0.5, low=0.2, high=0.8)


def privacy() -> Iterator[PrivacyRow]:
    note = "Nominal epsilon is that of one MFCC value; every frame of a clip spends again."
    for site in SITES:
        laplace = {"site": site, "mechanism": "mfcc-laplace", "note": note}
        yield PrivacyRow(unit="value", epsilon=0.8, nominal=0.8, **laplace)
        yield PrivacyRow(unit="clip", epsilon=2704.0, nominal=2704.0, **laplace)
        yield PrivacyRow(unit="speaker", epsilon=64896.0, nominal=64896.0, **laplace)
        autoencoder = "An autoencoder that reconstructs gives no differential privacy."
        yield PrivacyRow(site=site, mechanism="face-autoencoder", unit="clip", epsilon=None, note=autoencoder)
        yield PrivacyRow(site=site, mechanism="face-autoencoder", unit="speaker", epsilon=None, note=autoencoder)
    for number in range(1, 11):
        for index, site in enumerate(SITES):
            spent = 2.4 + 0.51 * number**1.04 - 0.03 * index
            common = {"site": site, "delta": 1e-3, "round": number}
            yield PrivacyRow(mechanism="dp-sgd voice", unit="clip", epsilon=spent, nominal=8.0, **common)
            yield PrivacyRow(mechanism="dp-sgd voice", unit="speaker", epsilon=None, **common)
            yield PrivacyRow(mechanism="dp-sgd face", unit="clip", epsilon=spent - 0.9, nominal=8.0, **common)
            yield PrivacyRow(mechanism="dp-sgd face", unit="speaker", epsilon=None, **common)


def run(**changes: object) -> RunPart:
    content: dict[str, object] = {
        "seed": 1,
        "versions": {"moretta": "0.1.0", "python": "3.11.9", "torch": "2.14.1", "flwr": "1.41.0", "opacus": "1.6.0"},
        "command": "moretta simulate --corpus corpora/synthetic --sites 6 --rounds 10 --seed 1 --out out",
        "seconds": 154.2,
        "finished": "2026-11-23T08:05:27Z",
        "stages": (
            StageRow(name="codebook", seconds=4.1),
            StageRow(name="release", seconds=41.0, clips_per_second=7.1, frames_per_second=131.0, times_real_time=18.2),
            StageRow(name="train voice", seconds=38.0, clips_per_second=62.0),
            StageRow(name="train face", seconds=44.5, clips_per_second=51.4),
            StageRow(name="evaluate", seconds=1.9),
            StageRow(name="audit", seconds=24.0, clips_per_second=12.0),
        ),
        "peak_memory_bytes": 2_310_000_000,
        "seeded_noise": True,
        "study": Study(name="Winter pilot", gate={"max_epsilon": 8.5}).model_dump(mode="json"),
        "face_preset": "small (64x64, latent 300)",
        "warnings": ("1 site took part in 9 of 10 rounds.",),
        "sites": tuple(
            SiteRow(
                site=site,
                speakers=2,
                clips=48,
                rounds=10,
                dropped=1,
                seconds=95.0,
                bytes_sent=2**21,
                bytes_received=700,
            )
            for site in SITES
        ),
        "rounds": tuple(
            RoundRow(stage=stage, round=n, sites=6, loss=1.8 - 0.05 * n, uar=0.2 + 0.015 * n, seconds=3.9)
            for stage in ("voice", "face")
            for n in range(1, 11)
        ),
    }
    return RunPart.model_validate(content | changes)


def utility() -> Iterator[Result]:
    """A trained evaluator with three figures, a pretrained one with two, one whose weights are not there."""
    about = {"attack": "utility", "target": "emotion", "metric": "uar", "chance": 1 / 6, "speakers": 12, "clips": 288}
    voice = about | {"modality": "voice", "attacker": "voice-forest", "kind": "trained"}
    for scenario, uar in (("unprotected", 0.412), ("semi-informed", 0.344), ("ignorant", 0.187)):
        figures = {"scenario": scenario, "value": uar, "low": uar - 0.05, "high": uar + 0.05}
        yield Result.model_validate(voice | figures)
    face = about | {"modality": "face", "attacker": "face-api-expression", "kind": "pretrained"}
    for scenario, uar in (("unprotected", 0.671), ("ignorant", 0.298)):
        yield Result.model_validate(face | {"scenario": scenario, "value": uar})
    absent = {"attacker": "hubert-emotion", "scenario": "semi-informed", "invalid": True}
    yield Result.model_validate(voice | absent | {"reason": "no weights: run `fetch them`"})
    words = voice | {"target": "words", "attacker": "pocketsphinx", "kind": "pretrained", "metric": "wer", "clips": 48}
    yield Result.model_validate(words | {"scenario": "unprotected", "value": 0.031, "low": 0.01, "high": 0.05})
    yield Result.model_validate(words | {"scenario": "ignorant", "value": 0.62, "low": 0.5, "high": 0.7})
    melody = words | {"target": "prosody", "attacker": "pitch tracker", "metric": "pitch_cents", "scenario": "ignorant"}
    yield Result.model_validate(melody | {"invalid": True, "reason": "fewer than half of 48 clips have pitch"})
    mesh = melody | {"modality": "face", "attacker": "face-mesh", "target": "landmarks", "metric": "landmark_error"}
    yield Result.model_validate(mesh | {"value": 0.021, "low": 0.018, "high": 0.025, "chance": 0.038})


def report(**changes: object) -> Report:
    """The example; keyword arguments replace top-level parts, and the headline follows."""
    content: dict[str, object] = {
        "gate": GatePart(passed=True),
        "emotion": EmotionResults(voice=emotion(1, 0.30), face=emotion(2, 0.42), fused=emotion(3, 0.47)),
        "emotion_central": emotion(4, 0.35),
        "audit": tuple(audit()),
        "inference": tuple(inference()),
        "utility": tuple(utility()),
        "privacy": tuple(privacy()),
        "corpus": CorpusPart(
            name="synthetic",
            synthetic=True,
            labels="intended",
            clips=288,
            speakers=SPEAKERS,
            dropped=(DropCount(reason="no-face", count=4), DropCount(reason="silent", count=2)),
        ),
        "run": run(),
    } | changes
    draft = Report.model_validate(content)
    found = headlines(draft.audit, draft.emotion)
    gate = (
        draft.gate if "gate" in changes else check_gate(GateSection(), found, released=("voice", "face"), resamples=200)
    )
    return draft.model_copy(update={"headline": found, "gate": gate})
