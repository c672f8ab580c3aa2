"""Figures in plain words, for readers who are no statisticians: counts of ten people, guesses of a hundred."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import EmotionTable, Headline, Modality, PrivacyRow, Report
from moretta.shared.audit.report.tables import latest
from moretta.shared.audit.result import Result, strongest

KNOWS = {
    "ignorant": "who has original recordings and does not know the anonymizer",
    "lazy-informed": "who anonymizes recordings with the same anonymizer",
    "semi-informed": "who anonymizes recordings with the same anonymizer and trains on them",
}
_EMOTION_BY: dict[str, str] = {"fused": "voice and face together", "learned": "their learned fusion"}
PEOPLE_UNITS = ("clip", "speaker", "site")
"""Units that stand for people or their recordings, not for parts of a recording."""


def frequency(share: float, whole: int = 10) -> str:
    """How many of `whole` a share is.

    >>> frequency(0.76), frequency(0.02), frequency(0.02, 100), frequency(0.0)
    ('8', 'fewer than 1', '2', '0')
    """
    count = math.floor(share * whole + 0.5)
    return "fewer than 1" if share > 0 and count == 0 else str(count)


def identity_sentence(part: Headline, results: Sequence[Result] = (), *, without_originals: bool = False) -> str:
    """How many of ten people the strongest attacker of one modality recognizes; of a hundred where ten are too few."""
    label = wording.modality_label(part.modality)
    figure = next((f for f in part.figures if f.metric == "top1"), None)
    pooled = [
        r for r in results if r.modality == part.modality and r.metric == "top1" and r.pooled > 1 and not r.is_anchor
    ]
    most = strongest(r for r in pooled if r.subset == "all")
    if figure is None and most is not None and most.value is not None:
        return (
            f"{label}: no attacker of single clips has a figure that counts. From {most.pooled} clips of each person: "
            f"{frequency(most.value)} of 10 people would be re-identified."
        )
    if figure is None:
        return f"{label}: every attacker is invalid or absent. Nothing is known, which is no evidence of privacy."
    whole = 10 if min(figure.value, figure.chance or 1.0) >= 0.05 else 100
    ends = [frequency(end, whole) for end in (figure.low, figure.high) if end is not None]
    between = f" (95 % interval: {ends[0]} to {ends[1]})" if len(ends) == 2 else ""
    against = [] if figure.chance is None else [f"guessing finds {frequency(figure.chance, whole)}"]
    if figure.unprotected is not None:
        against.append(f"unprotected recordings give away {frequency(figure.unprotected, whole)}")
    elif not without_originals:
        against.append("no attacker re-identified people in unprotected recordings, so this proves little")
    who = KNOWS.get(figure.scenario, f"of the scenario {figure.scenario}")
    found = frequency(figure.value, whole)
    did = f"an attacker {who} would re-identify {found} from one clip"
    more = ""
    if most is not None and most.value is not None and (count := frequency(most.value, whole)) != found:
        more = f" From {most.pooled} clips of each person: {count}."
    if figure.low is not None and figure.chance is not None and figure.low <= figure.chance:
        against.append("with so few people, that is not distinguishable from guessing")
    compared = f" {'; '.join(against).capitalize()}." if against else ""
    return f"{label}: of {whole} people, {did}{between}.{more}{compared}"


def emotion_sentence(tables: Mapping[Modality, EmotionTable]) -> str:
    """Sentence on how many of ten clips have their emotion recognised, by modality."""
    found = [f"{frequency(table.uar)} by {_EMOTION_BY.get(name, name)}" for name, table in tables.items()]
    chance = frequency(max(table.chance for table in tables.values()))
    return (
        f"Emotion: of 10 clips of people whom the models were not trained on, it is recognised in {', '.join(found)}; "
        f"guessing, in {chance}."
    )


def together_sentence(headline: Sequence[Headline]) -> str:
    """Sentence on an attacker who has both voice and face; no attacker joins them yet."""
    found = {h.modality: f for h in headline for f in h.figures if f.metric == "top1"}
    if not found:
        return "Voice and face together: not attacked together, and nothing is known of either alone."
    modality, figure = max(found.items(), key=lambda item: item[1].value)
    least = f"at least the {frequency(figure.value)} of 10 that the {modality} gives away"
    return f"Voice and face together: no attacker joined them. An attacker who has both can expect {least}."


def model_sentence(report: Report) -> str:
    """Sentence on membership inference from the trained model, by the strongest valid attacker."""
    attacks = [r for r in report.inference if r.attack == "membership"]
    auc = strongest(r for r in attacks if r.metric == "auc" and r.is_whole)
    if auc is None or auc.value is None:
        why = next((f" ({r.reason})" for r in attacks if r.reason), "")
        state = f"invalid{why}" if attacks else "not made"
        return f"Trained model: attacks on whose clips it was trained with were {state}, so nothing was measured."
    leaks = "" if auc.leaks else " That is not distinguishable from guessing."
    return (
        f"Trained model, {auc.modality}: given one clip that it was trained with and one that it was not, an attacker "
        f"picks the right one {frequency(auc.value)} of 10 times; guessing, 5 of 10.{leaks}"
    )


class Meaning(NamedTuple):
    """One epsilon in plain words."""

    unit: str
    epsilon: str
    word: str
    right: str
    """The most of 100 guesses that can be right about one of two equally likely cases."""


def epsilon_word(epsilon: float | None) -> str:
    """On the scale of Ponomareva et al. (How to DP-fy ML, JAIR 77, 2023, tiers 1 to 3).

    >>> [epsilon_word(value) for value in (0.8, 8.0, 2704.0, None)]
    ['strong', 'reasonable', 'weak or none', 'no guarantee']
    """
    if epsilon is None:
        return "no guarantee"
    return "strong" if epsilon <= 1 else "reasonable" if epsilon <= 10 else "weak or none"


def most_right(epsilon: float, delta: float) -> float:
    """The largest share of right guesses about two equally likely cases under (epsilon, delta)-differential privacy.

    Both error rates a and b obey a + exp(epsilon) b >= 1 - delta, either way round (Kairouz et al., ICML 2015,
    theorem 2.1); the sum of both bounds gives it.

    >>> round(most_right(0.0, 0.0), 3), round(most_right(1.0, 0.0), 3)
    (0.5, 0.731)
    """
    return 1 - (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))


def epsilon_meanings(rows: Sequence[PrivacyRow]) -> dict[str, list[Meaning]]:
    """Final guarantees of each mechanism for people, in plain words, at the worst site."""
    found: dict[str, list[Meaning]] = {}
    final = latest(rows)
    for mechanism in dict.fromkeys(row.mechanism for row in final):
        for unit in PEOPLE_UNITS:
            if mine := [row for row in final if row.mechanism == mechanism and row.unit == unit]:
                worst = max(mine, key=lambda row: math.inf if row.epsilon is None else row.epsilon)
                right = 100 if worst.epsilon is None else math.ceil(100 * most_right(worst.epsilon, worst.delta))
                shown = "all" if right == 100 else str(right)
                figure = wording.epsilon(worst.epsilon, missing="none")
                found.setdefault(mechanism, []).append(Meaning(unit, figure, epsilon_word(worst.epsilon), shown))
    return found


def untested(report: Report) -> list[str]:
    """Sentences on what was not tested, though a reader might expect it."""
    study, found = report.run.study, []
    section = study.get("audit")
    named = section.get("attackers") if isinstance(section, dict) else None
    absent = _attackers(r for r in report.audit if r.value is None and not r.clips)
    whole = [r for r in report.audit if r.metric in ("top1", "eer") and r.subset == "all"]
    # Some attack pooled clips alone, and a pool that nobody has clips enough for is no control
    tested = [r for r in whole if r.pooled == 1 or r.value is not None]
    # One that cannot read the form in one scenario is valid in another
    counted = set(_attackers(r for r in tested if not r.invalid and not r.is_anchor))
    invalid = _attackers(r for r in tested if r.invalid and r.clips and r.attacker not in counted)
    if report.run.deployment:
        found.append("Attacks on original recordings: they never left the sites.")
    if isinstance(named, list | tuple) and named:
        found.append(f"Other attackers than the {len(named)} that the study names.")
    if absent:
        found.append(f"Attackers that could not run: {_some(absent)}.")
    if invalid:
        found.append(f"Attackers that failed a control, so that their figures are invalid: {_some(invalid)}.")
    if far := max((r.left_out for r in report.audit), default=0):
        found.append(f"The releases of {far} people, whose values lie far outside those of the others.")
    if not report.inference:
        found.append("Sex, age group, inversion, links of voice to face, and what the trained model gives away.")
    else:
        attacks = [r for r in report.inference if not r.is_anchor]
        valid = {(r.modality, r.target) for r in attacks if not r.invalid}
        missing = [f"{r.target} by {r.modality}" for r in attacks if (r.modality, r.target) not in valid]
        found += [f"Without a valid figure: {_some(list(dict.fromkeys(missing)))}."] if missing else []
    found.append("An attacker that joins voice and face; people who listen and look; attackers not yet invented.")
    people = max((f.speakers for part in report.headline for f in part.figures), default=report.corpus.speakers)
    found.append(f"Other people than these {people}. Figures of so few need not hold for others.")
    return found


def _attackers(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(r.attacker for r in results))


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
