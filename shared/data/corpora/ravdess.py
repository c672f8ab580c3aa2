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
from moretta.shared.data import reader
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker

EMOTIONS_OF_RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_SOUND = "03"
"""01 is sound and pictures, 02 pictures alone."""
_LEVELS = {"01": "normal", "02": "strong"}
_CHANNELS = {"01": "speech", "02": "song"}
_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
SENTENCES: dict[str, str] = {f"{c}-{n}": text for c in _CHANNELS.values() for n, text in _STATEMENTS.items()}
_NAME = re.compile(r"(0[123])-((0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d))")
_GRAMMAR = "seven numbers of two digits, such as 03-01-06-01-02-01-12"


@reader.corpus_reader("ravdess")
class Ravdess(reader.CorpusReader):
    """Speech and song. The sound of a clip is that of its sound file, else that of its video."""

    layout = f"files under RAVDESS names ({_GRAMMAR})"

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether any file has such a name."""
        return any(_NAME.fullmatch(path.stem) for path in reader.media_files(root, below=True))

    @classmethod
    def read(cls, root: Path, labels: reader.Labels) -> Corpus:
        """List the clips."""
        if labels != "intended":
            raise CorpusError(f"RAVDESS has no labels {labels!r}", fix='set labels = "intended"')
        found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        drops: list[Drop] = []
        for path in reader.media_files(root, below=True):
            relative = path.relative_to(root).as_posix()
            match = _NAME.fullmatch(path.stem)
            if match is None:
                if path.suffix.lower() in (*reader.AUDIO_ENDINGS, *reader.VIDEO_ENDINGS):
                    drops.append(Drop(relative, "bad-name", f"the file name {path.stem!r}; expected {_GRAMMAR}"))
                continue
            kind = "audio" if match[1] == _SOUND else "video"
            why = reader.wrong_kind(path, reader.AUDIO_ENDINGS if kind == "audio" else reader.VIDEO_ENDINGS)
            if why is not None:
                drops.append(Drop(relative, "wrong-kind", why, match[8]))
            else:
                found[match[2]][kind].append(path)
        clips = []
        for name, files in found.items():
            chosen: dict[str, Path] = {}
            for kind, paths in files.items():
                for path in sorted(paths, key=lambda path: (path.stem, path.as_posix())):  # 01 has sound, 02 has none
                    kept = chosen.setdefault(kind, path)
                    if kept != path and kept.stem == path.stem:
                        detail = f"{kept.relative_to(root).as_posix()} is used"
                        drops.append(Drop(path.relative_to(root).as_posix(), "duplicate", detail, name[-2:]))
            channel, emotion, intensity, statement, _, actor = name.split("-")
            label, sentence = EMOTIONS_OF_RAVDESS[int(emotion) - 1], f"{_CHANNELS[channel]}-{statement}"
            audio, video = chosen.get("audio"), chosen.get("video")
            clips.append(Clip(name, actor, label, sentence, _LEVELS[intensity], audio, video))
        if not clips:
            raise reader.no_clip(root, drops, expected=cls.layout)
        people = {clip.speaker: Speaker(clip.speaker, ("female", "male")[int(clip.speaker) % 2]) for clip in clips}
        return reader.corpus_of(root, clips, people, drops)
