"""A set of clips as an attacker sees it: who is claimed to be in them, and views of their arrays, read when needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.packed import Packed
from moretta.shared.audit.sources import (
    ArraySource,
    AudioFiles,
    ConstantSource,
    Form,
    FrameLoader,
    MemorySource,
    ReleaseFolder,
    ReleaseSource,
    VideoFiles,
)
from moretta.shared.audit.views import (
    Floats,
    Frames,
    mfcc_view,
    movement_of,
    statistics_view,
    thumbnails_of,
    thumbnails_view,
)
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.release.release_format import ReleasedClip, age_group

if TYPE_CHECKING:
    from moretta.shared.release.read_release import Release


@dataclass(frozen=True)
class ClipSet:
    """Clips of one modality, under pseudonyms.

    `clips[i]` describes what `mfcc(i)`, `waveform(i)` or `frames(i)` returns. Arrays are read from the source each
    time, but for the views that `with_views` has packed.
    """

    clips: tuple[ReleasedClip, ...]
    modality: Modality
    source: ArraySource = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    """Where each clip is in the source and in the packed views."""
    views: Mapping[str, Packed] = field(default_factory=dict, repr=False)
    damaged: Mapping[str, int] = field(default_factory=dict)
    """What could not be used, counted by reason."""

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Pseudonyms of all speakers, sorted."""
        return tuple(sorted({clip.speaker for clip in self.clips}))

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 [clips]: index of each clip's speaker in `speakers`."""
        number = {speaker: index for index, speaker in enumerate(self.speakers)}
        return np.array([number[clip.speaker] for clip in self.clips], np.int64)

    @property
    def form(self) -> Form:
        """The form of the first clip; a set made from several sites may mix forms."""
        return self.source.form(self.rows[0])

    @property
    def holds_codes(self) -> bool:
        """Whether these are codes: no sound can be made of them, and what learnt on sound cannot read them."""
        from moretta.shared.features.voice_forms import is_code

        return self.modality == "voice" and len(self) > 0 and is_code(self.form)

    def subset(self, indices: Iterable[int]) -> ClipSet:
        """The clips at these positions, in this order."""
        chosen = [int(index) for index in indices]
        return replace(
            self, clips=tuple(self.clips[i] for i in chosen), rows=tuple(self.rows[i] for i in chosen), damaged={}
        )

    def of(self, speakers: Iterable[str]) -> ClipSet:
        """The clips of some speakers."""
        wanted = set(speakers)
        return self.subset(i for i, clip in enumerate(self.clips) if clip.speaker in wanted)

    def array(self, index: int) -> npt.NDArray[Any]:
        """One array in the form it was released in."""
        return self.source.array(self.rows[index])

    def mfcc(self, index: int) -> Floats:
        """float32 [frames, coefficients], frames every 10 ms; of codes float32 [steps, d], one step or more."""
        row = self.rows[index]
        return self.views["mfcc"][row] if "mfcc" in self.views else mfcc_view(self.source, row)

    def statistics(self, index: int) -> Floats:
        """float32 [d]: the statistics of a clip's MFCC, or codes, that most adaptive voice attackers work on."""
        row = self.rows[index]
        packed = self.views.get("statistics")
        found: Floats = statistics_view(self.source, row, self.mfcc(index)) if packed is None else packed[row][0]
        return found

    def waveform(self, index: int) -> Floats:
        """float32 [samples] at 16 kHz in [-1, 1]; resynthesized where no sound was released.

        Raises:
            ReleaseError: codes were released, of which no sound can be made.
        """
        from moretta.shared.features.voice_forms import as_waveform

        row = self.rows[index]
        samples: Floats = as_waveform(self.source.form(row), self.source.array(row), self.source.codebook(row))
        return samples

    def frames(self, index: int) -> Frames:
        """uint8 [frames, height, width, 3], RGB."""
        frames: Frames = self.array(index)
        return frames

    def thumbnails(self, index: int) -> Frames:
        """uint8 [up to 6, 48, 48, 3]: few small frames spread over the clip, cheap enough to keep at hand."""
        row = self.rows[index]
        return self.views["thumbnails"][row] if "thumbnails" in self.views else thumbnails_view(self.source, row)

    def movement(self, index: int) -> Frames:
        """uint8 [up to 300, 24, 24]: all frames of a clip in grey and tiny, in their order."""
        row = self.rows[index]
        return self.views["movement"][row] if "movement" in self.views else movement_of(self.source.array(row))

    def decoded(self) -> ClipSet:
        """The same clips held in memory as sound or as frames: for few clips that several encoders will read."""
        read = self.waveform if self.modality == "voice" else self.frames
        arrays = [read(index) for index in range(len(self))]
        form: Form = "waveform" if self.modality == "voice" else "frames"
        return ClipSet.from_arrays(self.clips, arrays, modality=self.modality, form=form)

    def content_key(self, index: int) -> str:
        """SHA-256 over form, shape and bytes: equal content, equal key, whatever the clip is called."""
        row = self.rows[index]
        array = np.ascontiguousarray(self.source.array(row))
        digest = hashlib.sha256(f"{self.source.form(row)} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data if array.size else b"")
        if (codebook := self.source.codebook(row)) is not None:
            digest.update(np.ascontiguousarray(codebook).data)
        return digest.hexdigest()

    def with_views(
        self, folder: Path, *, coefficients: int | None = None, step: Callable[[], None] = lambda: None
    ) -> ClipSet:
        """The same set with its small views computed once and mapped from `folder`.

        Clips that cannot be read are left out and counted in `damaged`. `coefficients`: how many MFCC of waveforms.
        `step` is called for each clip that was read.
        """
        failed: Counter[str] = Counter(self.damaged)
        kept: list[int] = []
        size: tuple[int, ...] | None = None
        movements: list[Frames] = []  # a few kB a clip; the next reading would decode and crop all over again

        def readable() -> Iterator[npt.NDArray[Any]]:
            nonlocal size
            for index, row in enumerate(self.rows):
                step()
                try:
                    frames = None if self.modality == "voice" else self.source.array(row)
                    view = mfcc_view(self.source, row, coefficients) if frames is None else thumbnails_of(frames)
                except (ClipError, ReleaseError) as error:
                    failed[getattr(error, "reason", "damaged")] += 1
                    continue
                size = view.shape[1:] if size is None else size
                if view.shape[1:] != size:
                    failed["other-size"] += 1  # no attacker could take it together with the others
                    continue
                kept.append(index)
                if frames is not None:
                    movements.append(movement_of(frames))
                yield view

        name = "mfcc" if self.modality == "voice" else "thumbnails"
        packed = Packed.write(folder, name, readable(), rows=lambda: [self.rows[i] for i in kept])
        views = {**self.views, name: packed}
        subset = replace(self.subset(kept), views=views, damaged=dict(failed))
        if self.modality != "voice":
            views["movement"] = Packed.write(folder, "movement", movements, rows=lambda: list(subset.rows))
            return replace(subset, views=views)
        statistics = (statistics_view(self.source, row, subset.mfcc(i))[None] for i, row in enumerate(subset.rows))
        views["statistics"] = Packed.write(folder, "statistics", statistics, rows=lambda: list(subset.rows))
        return replace(subset, views=views)

    @classmethod
    def constant(cls, like: ClipSet) -> ClipSet:
        """The first array of `like` under every clip's name: an attacker that gains from this is broken."""
        row = like.rows[0]
        source = ConstantSource(like.source.array(row), like.source.form(row), like.source.codebook(row))
        views = {}
        for name, packed in like.views.items():
            views[name] = packed.constant(row)
        return replace(like, source=source, rows=(0,) * len(like), views=views, damaged={})

    @classmethod
    def from_arrays(
        cls,
        clips: Sequence[ReleasedClip],
        arrays: Sequence[npt.NDArray[Any]],
        *,
        modality: Modality,
        form: Form,
        codebook: Floats | None = None,
    ) -> ClipSet:
        """Arrays that are in memory already."""
        return cls(tuple(clips), modality, MemorySource(arrays, form, codebook), tuple(range(len(clips))))

    @classmethod
    def from_release(cls, release: Release, modality: Modality) -> ClipSet:
        """One site's release."""
        return cls.from_releases([release], modality)

    @classmethod
    def from_releases(cls, releases: Sequence[Release], modality: Modality) -> ClipSet:
        """Several sites' releases. Every array is read once to check it; damaged ones are left out and counted."""
        shelves: list[ReleaseFolder] = []
        entries: list[tuple[int, str, str]] = []
        clips: list[ReleasedClip] = []
        damaged: Counter[str] = Counter()
        for release in releases:
            statement = release.anonymizer(modality)
            if statement is None:
                continue
            form: Any = statement.form
            for clip, _ in release.arrays(modality):
                clips.append(clip)
                entries.append((len(shelves), f"{modality}-{getattr(clip, modality):05d}.safetensors", clip.clip))
            shelves.append(ReleaseFolder(release.folder, form, release.codebook if modality == "voice" else None))
            damaged.update(release.damaged)
        source = ReleaseSource(tuple(shelves), tuple(entries))
        return cls(tuple(clips), modality, source, tuple(range(len(clips))), damaged=dict(damaged))

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        modality: Modality,
        pseudonyms: PseudonymKey | Mapping[int, PseudonymKey],
        *,
        loader: FrameLoader | None = None,
    ) -> ClipSet:
        """Originals, or another tool's output, under the pseudonyms that the sites gave.

        Args:
            corpus: clips without this modality are left out.
            modality: what to read of them.
            pseudonyms: one key, or the key of each speaker's site by speaker number.
            loader: reads the faces of one video; needed for faces.
        """
        chosen = [clip for clip in corpus.clips if (has_sound(clip) if modality == "voice" else clip.video is not None)]
        meta = []
        for clip in chosen:
            key = pseudonyms if isinstance(pseudonyms, PseudonymKey) else pseudonyms[clip.speaker]
            meta.append(_describe(clip, corpus, key))
        source: ArraySource
        if modality == "voice":
            source = AudioFiles(tuple(chosen))
        else:
            if loader is None:
                raise ValueError("faces of a corpus need a loader that crops them")
            source = VideoFiles(tuple(chosen), loader)
        return cls(tuple(meta), modality, source, tuple(range(len(meta))))


def _describe(clip: Clip, corpus: Corpus, key: PseudonymKey) -> ReleasedClip:
    speaker = corpus.speakers[clip.speaker]
    sex: Any = speaker.sex
    return ReleasedClip(
        clip=key.clip(str(clip.name)),
        speaker=key.speaker(clip.speaker),
        emotion=clip.label,
        sentence=clip.name.sentence,
        level=clip.name.level,
        sex=sex,
        age_group=age_group(speaker.age),
    )
