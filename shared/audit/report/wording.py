"""Labels of metrics and scenarios, and formats of figures, for a reader who is not an engineer."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

NO_GUARANTEE = "no finite guarantee"
INVALID = "invalid"
"""The mark of a figure whose control failed, beside the figure on pages and on the command line."""


class MetricLabel(NamedTuple):
    """How one metric is shown."""

    label: str
    meaning: str
    percent: bool = True


_number = partial(MetricLabel, percent=False)
METRICS: dict[str, MetricLabel] = {
    "top1": MetricLabel("Top-1", "share of trials in which the right speaker is ranked first; higher is more leakage"),
    "eer": MetricLabel("EER", "equal error rate of distinguishing speakers; 50 % is no information"),
    "top5": MetricLabel("Top-5", "share of trials with the right speaker among the first five; higher is more leakage"),
    "tpr_at_fpr_1pct": MetricLabel("TPR at 1 % FPR", "matches found while 1 % of non-matches are accepted"),
    "tpr_at_fpr_01pct": MetricLabel("TPR at 0.1 % FPR", "matches found while 0.1 % of non-matches are accepted"),
    "d_sys": _number("D_sys", "linkability, 0 (none) to 1 (full)"),
    "min_cllr": _number("min Cllr, bit", "cost of the scores at best calibration; 1 is no information"),
    "cllr": _number("Cllr, bit", "cost of the scores as they are; 1 or more is no information"),
    "zebra_expected": _number("ZEBRA expected, bit", "expected disclosure; 0 is none"),
    "zebra_worst": _number("ZEBRA worst, log10 LR", "worst disclosure of a single trial; 0 is none"),
    "voice_distinctiveness_gain": _number(
        "G_VD, dB", "gain of voice distinctiveness: 0 is as distinct as the originals, lower is more alike"
    ),
    "deidentification": MetricLabel("DeID", "1: no released voice resembles its original more than others do"),
    "mean_rank": _number("Mean rank", "average place of the right speaker; 1 is full identification"),
    "median_rank": _number("Median rank", "middle place of the right speaker; 1 is full identification"),
    "eer_hull": MetricLabel("EER, convex hull", "EER on the convex hull of the ROC; 50 % is no information"),
    "d_sys_monotone": _number("D_sys, monotone", "linkability with a monotone likelihood ratio"),
    "uar": MetricLabel("UAR", "unweighted average recall"),
    "balanced_accuracy": MetricLabel("Balanced accuracy", "average of the classes' recalls; higher is more leakage"),
    "one_of_two": MetricLabel("One of two", "right choice between its face and another one; 50 % is no information"),
    "explained_variance": MetricLabel("Restored variance", "share of the variance that a decoder restores; 0 is none"),
    "wer": MetricLabel("Word error rate", "words put in, left out or mistaken, by the words that were said"),
    "sentence_accuracy": MetricLabel("Sentences right", "share of clips whose every word is recognised"),
    "pitch_correlation": _number("Pitch correlation", "of the melody before and after; 1 is the same, 0 is unrelated"),
    "pitch_cents": _number(
        "Pitch deviation, cents", "root mean square, each clip's median taken off; 100 is a semitone"
    ),
    "mcd": _number(
        "Mel-cepstral distortion, dB", "from the same delivery in the voice that is wanted; 0 is the same sound"
    ),
    "duration_ratio": _number("Duration ratio", "length of the release by that of the original"),
    "landmark_error": _number(
        "Landmark error", "mean distance of 468 points of the face, laid onto each other, by the distance of the eyes"
    ),
    "landmark_movement": _number(
        "Landmark movement", "correlation of how the face changes shape, before and after; 1 is the same"
    ),
    "ssim": _number("SSIM", "structural similarity of pictures before and after; 1 is the same"),
    "identity_cosine": _number(
        "Identity cosine", "of a face encoder, before and after; by chance: of two people's originals"
    ),
    "identity_distance": _number(
        "Identity distance", "1 - cosine, mean of pairs of people; near 0 is one face for everybody"
    ),
    "expression_agreement": MetricLabel("Same expression", "share of clips in which a network sees the same one"),
    "none": MetricLabel("–", ""),
    "auc": _number("AUC", "area under the ROC curve; 0.5 is no information"),
}

SCENARIOS: dict[str, str] = {
    "unprotected": "Anchor: original recordings against original recordings. Must be easy, or the attacker is broken.",
    "ignorant": "Knows nothing of the anonymizer: compares originals with what was released.",
    "lazy-informed": "Anonymizes its own recordings too, but was trained on originals.",
    "semi-informed": "Anonymizes its own recordings and was trained on releases. The realistic worst case here.",
    "constant": "Anchor: every clip replaced by the same one. Must be at chance, or the trials leak.",
}

MODALITIES: dict[str, str] = {
    "voice": "Voice",
    "face": "Face",
    "both": "Voice and face",
    "fused": "Voice and face, fused",
    "learned": "Voice and face, learned fusion",
}

DROP_REASONS: dict[str, str] = {
    "bad-name": "file name outside the corpus grammar",
    "unreadable": "file cannot be decoded",
    "silent": "no audible signal",
    "zero-length": "file or recording without content",
    "no-audio": "clip without sound",
    "no-video": "clip without video",
    "no-face": "no face found in any frame",
    "duplicate": "two files of one clip name",
}


def metric_label(name: str) -> MetricLabel:
    """A metric that a plug-in added is shown by its own name."""
    return METRICS.get(name, MetricLabel(name, "", percent=False))


def scenario_order(scenario: str) -> tuple[int, str]:
    """Sort key: scenarios as listed above, unknown ones last."""
    known = list(SCENARIOS)
    return (known.index(scenario) if scenario in known else len(known), scenario)


def modality_label(name: str) -> str:
    """`Voice` for `voice`; others by their own name."""
    return MODALITIES.get(name, name)


def percent(value: float | None, *, sign: bool = True) -> str:
    """A fraction as percent with one decimal.

    >>> percent(0.5625), percent(0.5625, sign=False), percent(None)
    ('56.2 %', '56.2', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}{' %' if sign else ''}"


def figure(value: float | None, metric: str, *, sign: bool = True) -> str:
    """A metric's value in its own unit."""
    if value is None or metric_label(metric).percent:
        return percent(value, sign=sign)
    return f"{value:.3f}".replace("-", "−")


def interval(low: float | None, high: float | None, metric: str = "uar") -> str:
    """`[48.1, 63.9]`, or nothing without an interval."""
    if low is None or high is None:
        return ""
    return f"[{figure(low, metric, sign=False)}, {figure(high, metric, sign=False)}]"


def epsilon(value: float | None, *, missing: str = NO_GUARANTEE) -> str:
    """An epsilon, in digits that a reader can compare down a column.

    >>> epsilon(2704.0), epsilon(7.984), epsilon(0.8), epsilon(None)
    ('2,704', '7.98', '0.8', 'no finite guarantee')
    """
    if value is None:
        return missing
    if value >= 1e7:
        return f"{value:.2e}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def format_bytes(count: int | None) -> str:
    """In GiB, MiB or KiB.

    >>> format_bytes(3 * 2**30), format_bytes(5 * 2**20), format_bytes(700)
    ('3.00 GiB', '5 MiB', '0.7 KiB')
    """
    if count is None:
        return "not measured"
    for unit, name, digits in ((2**30, "GiB", 2), (2**20, "MiB", 0)):
        if count >= unit:
            return f"{count / unit:.{digits}f} {name}"
    return f"{count / 2**10:.1f} KiB"


def format_seconds(seconds: float) -> str:
    """Seconds, with minutes from 90 s on."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def format_count(count: int, noun: str) -> str:
    """`1 clip`, `2,704 clips`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
