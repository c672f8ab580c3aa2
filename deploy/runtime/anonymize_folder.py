"""`moretta anonymize`: one site's release from a folder of clips, as a data set that others can use.

A call that was interrupted goes on when it is made again. Half of a release is made anew: its noise was on the ledger,
if at all, before anything of it could be opened, so the ledger may count it twice, and never less than once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from moretta.client.clips.release import make_release
from moretta.client.settings import SiteSettings
from moretta.deploy.runtime.planning import check_names, without_missing
from moretta.deploy.runtime.run_folder import Notify, prepare_folder
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.media import read_audio, write_picture, write_video, write_wav
from moretta.shared.features.voice_forms import as_waveform, is_code
from moretta.shared.release import Release, ReleasedClip
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.release.data_set import CHECKSUMS_FILE, MEDIA_FOLDER
from moretta.shared.study.schema import Study

SITE = "local"
RELEASE_FOLDER = "release"
BEGUN_FILE = "anonymize.json"
"""File that records what an unfinished call was to make. It lies beside the key and is no part of the release."""
_MADE_OF = ("waveform", "frames")
"""Forms that can be played or viewed as they are. Sound of MFCC and tokens is made by inversion."""


def anonymize_corpus(
    corpus: Path,
    out: Path,
    study: Study,
    *,
    media: bool | None = None,
    seeded: bool = False,
    step: Callable[[int, int], None] | None = None,
    notify: Notify = lambda _: None,
) -> Release:
    """Write the release of all clips of a corpus to `out/release`; key and ledger stay next to it in `out`.

    Args:
        out: a new or empty folder, or that of the same call, interrupted.
        media: whether sound and pictures are written; None writes them where the form is sound or pictures itself.
        seeded: whether noise derives from the study's seed: for tests, protects nobody.
        step: called with the number of clips done and of all.
        notify: gets lines about what the corpus lacks, about what comes before the first clip, and about the end.

    Raises:
        StudyError: a study that a site alone cannot release by, or a folder that holds something else.
        CorpusError: no clip can be read.
        OSError: the disk takes no more. After this, as after any interruption, the same call goes on.
    """
    from moretta.deploy.runtime.data_set import finish_data_set
    from moretta.shared.data.reader import read_corpus

    if study.site_training is not None:
        raise StudyError(
            "a study whose sites learn together before they release",
            expected="one that a site alone can release by",
            fix="run `moretta simulate`, or set `code_training` or `labels_from` in the options of the anonymizer",
        )
    limit_threads(1)  # two threads that wait for a busy core are slower than one that works
    check_names(study)
    found = read_corpus(corpus, labels=study.labels, classes=study.classes)
    study, absent = without_missing(found, study)
    for modality, why in absent.items():
        notify(f"no {modality} is released: {why}")
    _begin(out, {"corpus": str(corpus.resolve()), "study": study.digest(), "media": media, "seeded": seeded})
    settings = SiteSettings(
        name=SITE,
        home=out,
        corpus=corpus,
        speakers=(),
        held_out=frozenset(),
        simulated_seed=study.seed if seeded else None,
    )
    public = prepare_public(study, notify)
    release = make_release(settings, study, public, folder=out / RELEASE_FOLDER, progress=step)
    if media is not False:
        write_media(release, release.folder / MEDIA_FOLDER, fps=study.face.fps, inverted=bool(media))
    digest = finish_data_set(release, synthetic=found.synthetic)
    (out / BEGUN_FILE).unlink()
    notify(f"SHA-256 of {release.folder / CHECKSUMS_FILE}, to publish elsewhere: {digest}")
    return release


def _begin(out: Path, wanted: dict[str, object]) -> None:
    """Make the folder, or go on in that of the same call."""
    begun = out / BEGUN_FILE
    if not begun.is_file():
        prepare_folder(out)
        write_atomic(begun, json.dumps(wanted))
    elif (was := json.loads(begun.read_text(encoding="utf-8"))) != wanted:
        other = ", ".join(key for key in wanted if was.get(key) != wanted[key])
        raise StudyError(
            f"{out} holds an unfinished release of another call: {other} differ",
            expected="the call that was interrupted, or a new folder",
            fix="repeat that call, or choose another --out",
        )


def write_media(release: Release, folder: Path, *, fps: float, inverted: bool = True) -> None:
    """Write every released clip as `<pseudonym>.wav` and, where faces were released, as video with sound.

    A clip of one frame is a picture, `<pseudonym>.png`. Files that are there are kept. Codes have no media form.

    Args:
        inverted: whether sound is made of MFCC and tokens too.
    """
    for left in folder.glob(".*"):  # of a call that was killed
        left.unlink()

    def shown(modality: Modality) -> Iterator[tuple[ReleasedClip, Array, str]]:
        of = release.anonymizer(modality)
        if of is not None and (of.form in _MADE_OF or (inverted and not is_code(of.form))):
            yield from ((clip, array, of.form) for clip, array in release.arrays(modality))

    for clip, array, form in shown("voice"):
        if not (wav := folder / f"{clip.clip}.wav").exists():
            write_wav(wav, as_waveform(form, array, release.codebook))
    for clip, frames, _ in shown("face"):
        wav, video = (folder / f"{clip.clip}{ending}" for ending in (".wav", ".mp4"))
        if len(frames) == 1:
            write_picture(video.with_suffix(".png"), frames[0])
        elif not video.exists():
            try:
                sound = read_audio(wav) if wav.exists() else None
            except ClipError:  # an anonymizer may well release silence
                sound = None
            write_video(video, frames, fps, sound)
