"""`moretta anonymize`: one site's release from a folder of clips, and, if wanted, what a person can hear and see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moretta.client.clips.release import make_release
from moretta.client.settings import SiteSettings
from moretta.deploy.runtime.planning import check_names, without_missing
from moretta.deploy.runtime.run_folder import Notify, prepare_folder
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.workers import limit_threads
from moretta.shared.release import Release
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study

SITE = "local"


def anonymize_corpus(
    corpus: Path,
    out: Path,
    study: Study,
    *,
    media: bool = False,
    seeded: bool = False,
    step: Callable[[int, int], None] | None = None,
    notify: Notify = lambda _: None,
) -> Release:
    """Write the release of all clips of a corpus to `out/release`; key and ledger stay next to it in `out`.

    Args:
        out: a new or empty folder.
        seeded: whether noise derives from the study's seed: for tests, protects nobody.
        step: called with the number of clips done and of all.
        notify: gets lines about what the corpus lacks, and about what comes before the first clip.
    """
    from moretta.shared.data.reader import read_corpus

    if study.site_training is not None:
        raise StudyError(
            "a study whose sites learn together before they release",
            expected="one that a site alone can release by",
            fix="run `moretta simulate`, or set `code_training` or `labels_from` in the options of the anonymizer",
        )
    limit_threads(1)  # two threads that wait for a busy core are slower than one that works
    check_names(study)
    study, absent = without_missing(read_corpus(corpus, labels=study.labels, classes=study.classes), study)
    for modality, why in absent.items():
        notify(f"no {modality} is released: {why}")
    prepare_folder(out)
    settings = SiteSettings(
        name=SITE,
        home=out,
        corpus=corpus,
        speakers=(),
        held_out=frozenset(),
        simulated_seed=study.seed if seeded else None,
    )
    release = make_release(settings, study, prepare_public(study, notify), folder=out / "release", progress=step)
    if media:
        write_media(release, out / "media", fps=study.face.fps)
    return release


def write_media(release: Release, folder: Path, *, fps: float) -> None:
    """Write every released clip as `<pseudonym>.wav` and, where faces were released, as video with sound.

    Codes have no media form, and are not written.
    """
    from moretta.shared.data.media import read_audio, write_video, write_wav
    from moretta.shared.features.voice_forms import as_waveform, is_code

    folder.mkdir(parents=True, exist_ok=True)
    voice = release.anonymizer("voice")
    if voice is not None and not is_code(voice.form):
        for clip, array in release.arrays("voice"):
            write_wav(folder / f"{clip.clip}.wav", as_waveform(voice.form, array, release.codebook))
    face = release.anonymizer("face")
    for clip, frames in release.arrays("face") if face is not None and not is_code(face.form) else ():
        wav = folder / f"{clip.clip}.wav"
        try:
            sound = read_audio(wav) if wav.exists() else None
        except ClipError:  # an anonymizer may well release silence
            sound = None
        write_video(folder / f"{clip.clip}.mp4", frames, fps, sound)
