"""The audit by voice attackers against the same attackers one after another; and its cost as clips grow.

`make bench` measures those of the demonstration, and `--quick` on one worker, since workers take longer to start than
so few clips to audit. All attackers take minutes and are measured by hand, on sizes of speakers x clips of each:

    python -m tests.benchmarks.bench_audit --against 24x22
    python -m tests.benchmarks.bench_audit --growth 24x22 91x31

The baseline fits the same estimators and networks on the same clips, views, grids and folds, and runs the same
encoders, one after another in one process of one thread, as a worker has. Views and embeddings are made once, and both
sides must find the same EER and top-1. It measures the same trials with as many resamples, by scikit-learn's ROC curve
and isotonic regression; but fewer figures: no worst speakers, pooled clips, calibrated costs and ZEBRA. `one_worker` is
the ratio without the other cores.

Clips are of synthetic voices, released as centroid MFCC. Encoders without their weights are on neither side.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.deploy.synth.corpus import clip_names
from moretta.shared.audit import execute
from moretta.shared.audit.attackers import attacker_names, get_attacker
from moretta.shared.audit.attackers.open_set import embed_once
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics import Trials
from moretta.shared.audit.metrics.identification import hits, ranks
from moretta.shared.audit.metrics.intervals import speaker_counts
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.runner import audit, constant_inputs, matched
from moretta.shared.core.array_types import Bool, Float64
from moretta.shared.core.workers import Workers, one_thread
from moretta.shared.features.public_speech import make_public_voice
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release import PseudonymKey, ReleasedClip
from moretta.shared.study.schema import Study
from tests.benchmarks.figures import from_values, quick, record, timed

KEY = PseudonymKey.seeded(0, "benchmark")
RESAMPLES = 50 if quick() else 200
FEW = ("campplus", "voice-logistic", "voice-forest", "voice-ecapa", "voice-wccn")
"""Those of the demonstration."""
SHORT_SAMPLES = 24_000
"""Of each clip."""
Figures = dict[tuple[str, str], tuple[float, float]]
"""EER and top-1 of each attacker and scenario."""


def main() -> None:
    """Measure one row, or the rows of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="", metavar="SIZE", help="all attackers against the baseline")
    parser.add_argument("--growth", nargs=2, default=[], metavar="SIZE", help="all attackers, small and large")
    options = parser.parse_args()
    if options.growth:
        growth(*options.growth)
    elif options.against:
        against(attacker_names("voice"), *voices(options.against, None), times=1)
    elif quick():
        against(FEW, *voices("5x4", SHORT_SAMPLES), times=3)
    else:
        against(FEW, *voices("8x6", SHORT_SAMPLES), times=3)


def against(names: Sequence[str], original: ClipSet, released: ClipSet, *, times: int) -> None:
    """The row of the audit."""
    there = [name for name in names if get_attacker(name).missing() is None]
    ratios: list[float] = []
    found: list[Figures] = []
    sides = [
        partial(ours, there, original, released, workers=1 if quick() else None),
        partial(one_after_another, there, original, released),
        partial(ours, there, original, released, workers=1),
    ]
    detail: dict[str, float] = {}
    for _ in range(times):
        seconds = [timed(lambda side=side: found.append(side())) for side in (sides if times == 1 else sides[:2])]
        ratios.append(seconds[1] / seconds[0])
        detail = {"ours_s": seconds[0], "theirs_s": seconds[1]}
        detail |= {"one_worker": seconds[1] / seconds[2]} if times == 1 else {}
    for other in found[1:]:
        assert found[0].keys() == other.keys(), found[0].keys() ^ other.keys()
        assert all(np.allclose(found[0][key], other[key], atol=1e-6) for key in other), "the figures differ"
    record(
        from_values(
            "audit.few" if times > 1 else "audit.voice",
            f"audit, {len(there)} voice attackers, {len(released)} clips",
            "the same estimators and encoders one after another",
            ratios,
            target=3.0,
            better="higher",
            detail=detail,
        )
    )


def growth(small: str, large: str) -> None:
    """CPU seconds of one worker at both sizes: they hardly depend on what else the machine does."""
    pairs = [voices(size, None) for size in (small, large)]
    costs = [cost(*pair) for pair in pairs]
    clips = [len(released) for _, released in pairs]
    record(
        from_values(
            "audit.growth",
            f"cost of the audit by all voice attackers, from {clips[0]} clips ({small}) to {clips[1]} ({large})",
            "as much more as there are more clips",
            [costs[1] / costs[0] / (clips[1] / clips[0])],
            target=1.15,
            better="lower",
            detail={"small_cpu_s": costs[0], "large_cpu_s": costs[1]},
        )
    )


def cost(original: ClipSet, released: ClipSet) -> float:
    """CPU seconds, on one worker."""
    start = time.process_time()
    audit(original, released, bootstrap=RESAMPLES, workers=1)
    return time.process_time() - start


def voices(size: str, samples: int | None) -> tuple[ClipSet, ClipSet]:
    """Synthetic voices, and what the default anonymizer releases of them as MFCC.

    `size`: speakers x clips of each; `samples`: the longest clip.
    """
    speakers, clips = map(int, size.split("x"))
    meta: list[ReleasedClip] = []
    sounds: list[np.ndarray] = []
    for number in range(speakers):
        voice = make_voice(number, sex=("male", "female")[number % 2])
        for index, name in enumerate(clip_names(1001 + number, clips)):
            sounds.append(synthesize(voice, name.emotion, name.sentence, seed=100 * number + index)[:samples])
            meta.append(
                ReleasedClip(
                    clip=KEY.clip(str(name)),
                    speaker=KEY.speaker(str(number)),
                    emotion=name.emotion,
                    sentence=name.sentence,
                    level=name.level,
                    sex=("male", "female")[number % 2],
                )
            )
    study = Study().with_changes(voice__form="mfcc")
    public = make_public_voice(codebook_size=64, voices=4)
    quantizer = MfccQuantizer.from_study(study, public.to_arrays())
    arrays: list[np.ndarray] = []
    for start in range(0, len(sounds), 16):
        chunk = sounds[start : start + 16]
        noise = [SeededNoise(1, start + index) for index in range(len(chunk))]
        found = quantizer.release(chunk, noise, ["somebody"] * len(chunk))
        arrays += [array for array in found if isinstance(array, np.ndarray)]
    assert len(arrays) == len(meta)
    released = ClipSet.from_arrays(meta, arrays, modality="voice", form="mfcc")
    return ClipSet.from_arrays(meta, sounds, modality="voice", form="waveform"), released


def ours(names: Sequence[str], original: ClipSet, released: ClipSet, *, workers: int | None) -> Figures:
    """The audit as it is."""
    found = audit(original, released, attackers=names, bootstrap=RESAMPLES, workers=workers).results
    whole = [r for r in found if r.subset == "all" and r.pooled == 1 and r.value is not None]
    values = {(r.attacker, r.scenario, r.metric): r.value or 0.0 for r in whole}
    both = {(attacker, scenario) for attacker, scenario, metric in values if metric == "eer"}
    return {key: (values[*key, "eer"], values[*key, "top1"]) for key in sorted(both)}


def one_after_another(names: Sequence[str], original: ClipSet, released: ClipSet) -> Figures:
    """The plain way."""
    with one_thread(), tempfile.TemporaryDirectory() as scratch, Workers(1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sets, *_ = matched(original, released, Path(scratch), pool)
        sets["constant"] = ClipSet.constant(sets["released"])
        chosen = [get_attacker(name) for name in names]
        encoders = list(dict.fromkeys(cls.encoder for cls in chosen if cls.encoder))
        sets = embed_once(encoders, sets, Path(scratch), None, pool)
        inputs = execute.Inputs(sets, make_plan(sets["released"].clips, seed=0), 0, RESAMPLES)
        small = constant_inputs(inputs)
        sexes = {inputs.numbers[clip.speaker]: clip.sex or "" for clip in sets["released"].clips}
        figures: Figures = {}
        for cls in chosen:
            for unit in execute.units_of(cls, set(sets)):
                given = small if unit.train == "constant" else inputs
                scenarios = execute.scenarios_of(cls, unit, set(sets))
                for scenario, ranking, trials in execute.train_and_score(cls, given, unit, scenarios):
                    assert trials is not None
                    top1 = hits(ranking, 1)
                    for values in (top1, hits(ranking, 5), ranks(ranking)):
                        plain_interval(values, ranking.speaker)
                    for part in (trials, *(trials.of_sex(sexes, sex) for sex in ("male", "female"))):
                        if part is not None:
                            plain_intervals(part)
                    figures[cls.name, scenario.name] = (plain(trials.scores, trials.mated)[0], float(top1.mean()))
    return figures


def plain(scores: Float64, mated: Bool) -> tuple[float, ...]:
    """EER, minimum Cllr, linkability, and TPR at FPR 1 % and 0.1 % of one list."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(mated, scores, drop_intermediate=False)
    miss = 1 - tpr
    at = int(np.argmax(fpr >= miss))
    step = (miss[at - 1] - fpr[at - 1]) / ((fpr[at] - fpr[at - 1]) + (miss[at - 1] - miss[at]))
    posterior = IsotonicRegression().fit_transform(scores, mated)
    with np.errstate(divide="ignore"):
        llr = np.log(posterior / (1 - posterior)) - np.log(mated.mean() / (1 - mated.mean()))
        cost = (np.logaddexp(0, -llr[mated]).mean() + np.logaddexp(0, llr[~mated]).mean()) / 2 / np.log(2)
    edges = np.linspace(scores.min(), scores.max() + 1e-9, max(1, min(100, int(mated.sum()) // 10)) + 1)
    own, other = (np.histogram(some, edges)[0] / len(some) for some in (scores[mated], scores[~mated]))
    linked = float((np.maximum(np.nan_to_num((own - other) / np.maximum(own + other, 1e-12)), 0) * own).sum())
    rates = [float(tpr[fpr <= limit].max()) for limit in (0.01, 0.001)]
    return float(fpr[at - 1] + step * (fpr[at] - fpr[at - 1])), float(cost), linked, *rates


def plain_intervals(trials: Trials) -> None:
    """Every figure of `plain` in every resample of the speakers."""
    speakers, rows = trials.speakers, np.arange(len(trials))
    enrol, trial = (np.searchsorted(speakers, side) for side in (trials.enrol_speaker, trials.trial_speaker))
    values = []
    for counts in speaker_counts(len(speakers), RESAMPLES, 0):
        drawn = np.repeat(rows, np.where(trials.mated, counts[enrol], counts[enrol] * counts[trial]))
        if trials.mated[drawn].any() and not trials.mated[drawn].all():
            values.append(plain(trials.scores[drawn], trials.mated[drawn]))
    if values:
        np.quantile(values, [0.025, 0.975], axis=0)


def plain_interval(values: Float64, speaker: np.ndarray) -> None:
    """The mean in every resample of the speakers."""
    speakers, of_row = np.unique(speaker, return_inverse=True)
    rows = np.arange(len(values))
    means = [values[np.repeat(rows, c[of_row])].mean() for c in speaker_counts(len(speakers), RESAMPLES, 0)]
    np.quantile(means, [0.025, 0.975])


if __name__ == "__main__":
    main()
