"""Checks before a run begins, and the plan of a simulation: which virtual site has which speakers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from moretta.shared.core.device import resolve_device
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Corpus, Folds, Speaker, assign_sites, make_folds
from moretta.shared.data.recordings import has_sound
from moretta.shared.enrollment import check_site_name
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.limits import check_limits, check_training_sites
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import check_model


def check_names(study: Study) -> None:
    """Refuse a study that names something that does not exist, or whose limits contradict each other.

    That comes before any site spends budget on it. Raises StudyError, with all that is wrong.
    """
    problems = list(name_problems(study))
    if len(problems) > 1:
        parts = [[getattr(problem, part) for problem in problems] for part in ("found", "expected", "fix")]
        found, expected, fix = ("; ".join(dict.fromkeys(filter(None, part))) for part in parts)
        raise StudyError(found, expected=expected, fix=fix)
    if problems:
        raise problems[0]


def name_problems(study: Study) -> Iterator[StudyError]:
    """Everything that `check_names` refuses."""
    from moretta.server.aggregation.strategies import make_strategy
    from moretta.shared.audit.attackers import attacker_names
    from moretta.shared.audit.site_attacks import sendable
    from moretta.shared.audit.utility.evaluators import evaluator_names

    def wrong_attackers(found: str, known: list[str], key: str = "attackers") -> StudyError:
        expected = f"one or more of: {', '.join(known)}"
        return StudyError(f"audit.{key} names {found}", expected=expected, fix="correct [audit]")

    def refusal(check: Callable[[], object]) -> Iterator[StudyError]:
        try:
            check()
        except StudyError as error:
            yield error

    for modality in study.modalities:
        section = study.section(modality)
        yield from refusal(partial(check_model, modality, section.model))
        if (why := anonymizer_of(study, modality).missing(study)) is not None:
            yield StudyError(f"{section.anonymizer} cannot run here: {why}", expected="its public network")
    yield from refusal(partial(make_strategy, study.train.strategy, dict(study.train.strategy_options)))
    if unknown := [name for name in study.audit.attackers if name not in attacker_names()]:
        yield wrong_attackers(", ".join(unknown), attacker_names())
    unknown = [name for name in study.audit.at_sites if name not in attacker_names()]
    yield from [wrong_attackers(", ".join(unknown), attacker_names(), "at_sites")] if unknown else ()
    for name in study.audit.at_sites if not unknown else ():
        yield from refusal(partial(sendable, name))
    if unknown := [name for name in study.audit.evaluators if name not in evaluator_names()]:
        yield wrong_attackers(", ".join(unknown), evaluator_names(), "evaluators")
    yield from refusal(partial(check_limits, study))
    if study.audit.attackers and (study.gate.max_top1 is not None or study.gate.min_eer is not None):
        for modality in study.modalities:
            if not set(study.audit.attackers) & set(attacker_names(modality)):
                yield wrong_attackers(f"none of {modality}, whose releases [gate] limits", attacker_names(modality))


def plan_simulation(corpus: Corpus, study: Study, command: str) -> SimulationPlan:
    """Deal the speakers to virtual sites and folds.

    Raises:
        StudyError: too few speakers for the study's sites or folds, only one emotion, no such device here, public
            people who are too few or in the corpus, or as for `check_names`.
        CorpusError: the public people cannot be read.
    """
    from moretta.shared.audit.public_people import public_corpus

    check_names(study)
    resolve_device(study.run.device)
    present = {clip.speaker for clip in corpus.clips}
    speakers = [corpus.speakers[speaker] for speaker in in_order(present)]
    emotions = {clip.label for clip in corpus.clips}
    if len(speakers) < 2:
        raise StudyError(
            f"a corpus of {len(speakers)} speaker",
            expected="at least 2: one is held out, and re-identification is a choice between people",
            fix="use a corpus of several speakers",
        )
    if len(emotions) < 2:
        found = f"a corpus of one emotion ({next(iter(emotions))})"
        raise StudyError(found, expected="at least 2 emotions to tell apart")
    warnings = list(corpus.warnings)
    if corpus.tested:
        warnings.append(f"the corpus's own split is used: {len(corpus.tested & present)} speakers are tested on")
        study = study.with_changes(split__folds=2, split__test_fold=0)
    if corpus.sites:
        study = study.with_changes(sites=len({corpus.sites[speaker] for speaker in present}))
    if study.split.folds > (most := len(speakers)):
        warnings.append(f"folds lowered from {study.split.folds} to {most}, the number of speakers")
        study = study.with_changes(split__folds=most, split__test_fold=min(study.split.test_fold, most - 1))
    study, absent = without_missing(corpus, study)
    check_limits(study, sites=study.sites)
    public_corpus(study, "audit", corpus)
    public_corpus(study, "train", corpus)
    least = min(1.0, 1 / len(speakers))
    if study.gate.max_top1 is not None and study.gate.max_top1 < least:
        warnings.append(f"gate.max_top1 {study.gate.max_top1:g} lies below chance, {least:.3g}: the gate will break")
    sites, folds = _sites(corpus, study, speakers), _folds(corpus, study, speakers)
    there: dict[SpeakerId, set[Modality]] = defaultdict(set)
    for clip in corpus.clips:
        if has_sound(clip):
            there[clip.speaker].add("voice")
        if clip.video is not None:
            there[clip.speaker].add("face")
    trained = [set(own) - set(folds[study.split.test_fold]) for own in sites.values()]
    check_training_sites(study, [sorted({m for speaker in own for m in there[speaker]}) for own in trained])
    return SimulationPlan(
        corpus=corpus.root.resolve(),
        corpus_name=corpus.name,
        synthetic=corpus.synthetic,
        study=study,
        sites=tuple(PlannedSite(name=name, speakers=tuple(own)) for name, own in sites.items()),
        folds=folds,
        command=command,
        absent=absent,
        # No site counts a file that is not known to be of a speaker who has clips
        dropped=dict(Counter(drop.reason for drop in corpus.dropped if drop.speaker not in present)),
        warnings=tuple(warnings),
    )


def _sites(corpus: Corpus, study: Study, speakers: list[Speaker]) -> dict[str, list[SpeakerId]]:
    """The speakers of each site: as the corpus assigns them, or dealt by the study's seed."""
    if not corpus.sites:
        dealt = assign_sites(speakers, study.sites, derive(study.seed, "sites"))
        width = max(2, len(str(len(dealt) - 1)))
        return {f"site-{number:0{width}d}": own for number, own in enumerate(dealt)}
    found: dict[str, list[SpeakerId]] = {}
    for speaker in sorted(speakers, key=lambda speaker: corpus.sites[speaker.id]):
        found.setdefault(check_site_name(corpus.sites[speaker.id].casefold()), []).append(speaker.id)
    return found


def _folds(corpus: Corpus, study: Study, speakers: list[Speaker]) -> Folds:
    """Disjoint folds: the corpus's test speakers and all others, or dealt by the study's seed."""
    if not corpus.tested:
        return make_folds(speakers, study.split.folds, derive(study.seed, "folds"))
    tested = tuple(speaker.id for speaker in speakers if speaker.id in corpus.tested)
    trained = tuple(speaker.id for speaker in speakers if speaker.id not in corpus.tested)
    if not tested or not trained:
        found = f"a split of the corpus with {len(tested)} test and {len(trained)} training speakers"
        raise StudyError(found, expected="at least one of each")
    return tested, trained


def without_missing(corpus: Corpus, study: Study) -> tuple[Study, dict[str, str]]:
    """Switch off the modalities that the corpus lacks: no budget is set aside for them, no autoencoder is trained.

    Returns the study, and why each modality was switched off; raises StudyError if nothing is left.
    """
    absent = {}
    if study.voice.enabled and not any(has_sound(clip) for clip in corpus.clips):
        absent["voice"] = "no clip of the corpus has sound"
    if study.face.enabled and not any(clip.video for clip in corpus.clips):
        absent["face"] = "no clip of the corpus has video"
    if absent.keys() == set(study.modalities):
        expected = "a corpus with what the study needs"
        raise StudyError("; ".join(absent.values()), expected=expected, fix="correct the study")
    return study.with_changes(**{f"{modality}__enabled": False for modality in absent}), absent
