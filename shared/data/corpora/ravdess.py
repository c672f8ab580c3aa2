"""RAVDESS: seven numbers a file name, in any folders.

`<modality>-<channel>-<emotion>-<intensity>-<statement>-<repetition>-<actor>`; odd actors are male, even ones female.
Source: Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13 (2018),
section "Filename description".
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import in_order
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.reader import (
    AUDIO_ENDINGS,
    VIDEO_ENDINGS,
    CorpusReader,
    Labels,
    corpus_reader,
    in_file_order,
    media_files,
    no_clip,
    read_marker,
    wrong_kind,
)

EMOTIONS_OF_RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_SOUND = "03"
"""01 is sound and pictures, 02 pictures alone."""
_LEVELS = {"01": "normal", "02": "strong"}
_CHANNELS = {"01": "speech", "02": "song"}
_NAME = re.compile(r"(0[123])-((0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d))")
_GRAMMAR = "seven numbers of two digits, such as 03-01-06-01-02-01-12"


@corpus_reader("ravdess")
class Ravdess(CorpusReader):
    """Speech and song. The sound of a clip is that of its sound file, else that of its video."""

    layout = f"files under RAVDESS names ({_GRAMMAR})"

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether any file has such a name."""
        return any(_NAME.fullmatch(path.stem) for path in media_files(root, below=True))

    @classmethod
    def read(cls, root: Path, labels: Labels) -> Corpus:
        """List the clips."""
        if labels != "intended":
            raise CorpusError(f"RAVDESS has no labels {labels!r}", fix='set labels = "intended"')
        found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        drops: list[Drop] = []
        for path in media_files(root, below=True):
            relative = path.relative_to(root).as_posix()
            match = _NAME.fullmatch(path.stem)
            if match is None:
                if path.suffix.lower() in (*AUDIO_ENDINGS, *VIDEO_ENDINGS):
                    drops.append(Drop(relative, "bad-name", f"the file name {path.stem!r}; expected {_GRAMMAR}"))
                continue
            kind = "audio" if match[1] == _SOUND else "video"
            why = wrong_kind(path, AUDIO_ENDINGS if kind == "audio" else VIDEO_ENDINGS)
            if why is not None:
                drops.append(Drop(relative, "wrong-kind", why, match[8]))
            else:
                found[match[2]][kind].append(path)
        clips = []
        for name in sorted(found):
            chosen: dict[str, Path] = {}
            for kind, paths in found[name].items():
                for path in sorted(paths, key=lambda path: (path.stem, path.as_posix())):  # 01 has sound, 02 has none
                    kept = chosen.setdefault(kind, path)
                    if kept != path and kept.stem == path.stem:
                        detail = f"{kept.relative_to(root).as_posix()} is used"
                        drops.append(Drop(path.relative_to(root).as_posix(), "duplicate", detail, name[-2:]))
            clips.append(_clip(name, chosen.get("audio"), chosen.get("video")))
        if not clips:
            raise no_clip(root, drops, expected=cls.layout)
        name, synthetic, warnings = read_marker(root)
        actors = in_order({clip.speaker for clip in clips})
        return Corpus(
            root=root,
            name=name,
            synthetic=synthetic,
            clips=tuple(clips),
            speakers={actor: Speaker(actor, "male" if int(actor) % 2 else "female") for actor in actors},
            dropped=in_file_order(drops),
            warnings=tuple(warnings),
        )


def _clip(name: str, audio: Path | None, video: Path | None) -> Clip:
    channel, emotion, intensity, statement, _, actor = name.split("-")
    label = EMOTIONS_OF_RAVDESS[int(emotion) - 1]
    return Clip(name, actor, label, f"{_CHANNELS[channel]}-{statement}", _LEVELS[intensity], audio, video)
