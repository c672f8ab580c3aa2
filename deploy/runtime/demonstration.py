"""The demonstration: one synthetic corpus, one study under two pairs of anonymizers, one page that compares them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.run_folder import Notify, Outcome, prepare_folder
from moretta.deploy.runtime.simulation import SimulationProcess
from moretta.deploy.site.review_media import data_address, original_pictures, original_sound, pictures, png, wav
from moretta.shared.audit.report.demo_page import ComparedStudy, ShownClip, ShownForm, render_demo
from moretta.shared.audit.report.report_file import load_report
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ExitCode
from moretta.shared.data.reader import SYNTHETIC_MARKER, read_corpus
from moretta.shared.features.voice_forms import as_waveform, is_code
from moretta.shared.release import open_release
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study, load_study

SPEAKERS, CLIPS = 8, 12
DEMO_PAGE = "index.html"
_EMBEDDINGS = Path("server") / "embeddings"
_SHOWN = {"HAP": "happy", "ANG": "angry"}
"""The emotions of the clips to see and hear, each of another person."""


class AnonymizerPair(NamedTuple):
    """The anonymizers of one study of the demonstration."""

    folder: str
    title: str
    settings: Mapping[str, Any]
    """Values by key of the demonstration's study file, where this study differs from it."""

    def study(self) -> Study:
        """The study of the package, with the pair's anonymizers."""
        with resources.as_file(resources.files("moretta.deploy.studies").joinpath("demo.toml")) as path:
            return load_study(path, self.settings)


PAIRS = (
    AnonymizerPair("original-project", "The original project's two anonymizers", {}),
    AnonymizerPair(
        "protected",
        "Two made to protect",
        {"voice.anonymizer": "speaker-normalized", "face.anonymizer": "expression-track"},
    ),
)


def run_studies(
    out: Path, make_corpus: Callable[[Path, Study], None], *, command: str, notify: Notify
) -> list[Outcome]:
    """Make the corpus, and run the study of each pair on it, one after the other, up to the first that fails.

    A corpus or run that exists already is kept as it is. Errors: see `SimulationProcess.run`.
    """
    corpus, outcomes = out / "corpus", list[Outcome]()
    prepare_folder(out, begun=f"{corpus.name}/{SYNTHETIC_MARKER}")
    for pair in PAIRS:
        study, folder = pair.study(), out / pair.folder
        with SimulationProcess() as process:  # it imports while the corpus is made
            if not corpus.exists():
                make_corpus(corpus, study)
            plan = plan_simulation(read_corpus(corpus), study, command)
            for former in outcomes:  # encoders have seen the originals
                _take_over(former.folder / _EMBEDDINGS, folder / _EMBEDDINGS)
            notify(f"{pair.title}: {' and '.join(study.section(m).anonymizer for m in study.modalities)}")
            outcomes.append(process.run(plan, folder, notify))
        if outcomes[-1].code not in (ExitCode.OK, ExitCode.GATE):
            break
    return outcomes


def _take_over(former: Path, folder: Path) -> None:
    if former.is_dir():
        shutil.copytree(former, folder, dirs_exist_ok=True)


def write_demo(out: Path, *, command: str) -> tuple[Path, list[ComparedStudy]]:
    """Write the page on the studies that were run in `out`; returns its path, and what it compares."""
    studies = [ComparedStudy(pair.title, pair.folder, load_report(out / pair.folder)) for pair in PAIRS]
    page = render_demo(studies, list(_shown_clips(out)), command=command)
    write_atomic(out / DEMO_PAGE, page)
    return out / DEMO_PAGE, studies


def _shown_clips(out: Path) -> Iterator[ShownClip]:
    """One clip of each shown emotion, each of another person: the original, and the release of each study."""
    plans = {out / pair.folder: SimulationPlan.load(out / pair.folder) for pair in PAIRS}
    first = next(iter(plans.values()))
    corpus, keys = read_corpus(first.corpus), first.pseudonym_keys()
    for person, (emotion, word) in zip(corpus.speakers.values(), _SHOWN.items(), strict=False):
        clip = next((c for c in corpus.clips if c.speaker == person.id and c.label == emotion), None)
        if clip is not None:
            before = _shown(original_sound(clip), (), original_pictures(clip, fps=first.study.face.fps))
            after = tuple(_released(folder, keys[person.id].clip(clip.name)) for folder in plans)
            yield ShownClip(f"A {person.sex or 'synthetic'} speaker, {word}", before, after)


def _released(folder: Path, clip: str) -> ShownForm:
    """Sound, numbers or pictures that a site released of a clip, by its pseudonym."""
    sound, numbers, frames = None, tuple[float, ...](), None
    for path in sorted((folder / "server" / "releases").iterdir()):
        release = open_release(path)
        if all(c.clip != clip for c in release.clips):
            continue
        for modality in release.modalities:
            statement = release.anonymizer(modality)
            array = next((a for c, a in release.arrays(modality) if c.clip == clip), None)
            if statement is None or array is None:
                continue
            if is_code(statement.form):
                numbers = tuple(map(float, array.ravel())) if modality == "voice" else numbers
            elif modality == "voice":
                sound = as_waveform(statement.form, array, release.codebook)
            else:
                frames = array
    return _shown(sound, numbers, frames)


def _shown(sound: Array | None, numbers: tuple[float, ...], frames: Array | None) -> ShownForm:
    player = "" if sound is None else data_address("audio/wav", wav(sound))
    return ShownForm(player, numbers, tuple(data_address("image/png", png(picture)) for picture in pictures(frames)))
