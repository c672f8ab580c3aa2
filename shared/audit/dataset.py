"""A set of clips as an attacker sees it: claimed speakers, and views of their arrays, read on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.audit.arrays import ClipArray, Form, FrameLoader, PackedArrays, read_clip, read_shard
from moretta.shared.audit.views import mfcc_view, movement_of, statistics_view, thumbnails_of
from moretta.shared.core.array_types import Array, Float32, Int64, UInt8
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.labels import EMOTIONS, SpeakerId, classes_among
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Workers, in_order
from moretta.shared.data.clips import Corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.release.read_release import Release
from moretta.shared.release.release_format import ReleasedClip, age_group, shard_of

_CHUNK = 4
"""Clips that a worker reads at once."""


@dataclass(frozen=True)
class ClipSet:
    """Clips of one modality, under pseudonyms.

    `clips[i]` describes the array of `mfcc(i)`, `waveform(i)` or `frames(i)`. Arrays are read each time, but for the
    views that `with_views` has packed.
    """

    clips: tuple[ReleasedClip, ...]
    modality: Modality
    arrays: tuple[ClipArray, ...] = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    """Where each clip is in the packed views."""
    views: Mapping[str, PackedArrays] = field(default_factory=dict, repr=False)
    damaged: Mapping[str, int] = field(default_factory=dict)
    """Number of clips that could not be used, by reason."""
    classes: tuple[str, ...] = EMOTIONS
    """The study's labels; those of all sets that are compared."""

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Pseudonyms of all speakers, sorted."""
        return tuple(sorted({clip.speaker for clip in self.clips}))

    @property
    def labels(self) -> Int64:
        """int64 [clips]: index of each clip's speaker in `speakers`."""
        return np.unique([clip.speaker for clip in self.clips], return_inverse=True)[1].astype(np.int64)

    @property
    def emotions(self) -> Int64:
        """int64 [clips]: class index of the label that the release states."""
        return np.array([self.classes.index(clip.emotion) for clip in self.clips], np.int64)

    @property
    def form(self) -> Form:
        """The form of the first clip; a set made from several sites may mix forms."""
        return self.arrays[0].form

    @property
    def holds_codes(self) -> bool:
        """Whether these are codes: what was trained on sound or pictures cannot read them."""
        from moretta.shared.features.voice_forms import is_code

        return len(self) > 0 and is_code(self.form)

    @property
    def holds_pictures(self) -> bool:
        """Whether these are faces that can be seen."""
        return self.modality == "face" and not self.holds_codes

    def side(self, default: int) -> int:
        """Pixels of released crops; of codes, and of nothing, a default."""
        return self.frames(0).shape[1] if len(self) and self.holds_pictures else default

    def among(self, other: ClipSet) -> ClipSet:
        """The clips that `other` has too, in its order."""
        place = {clip.clip: index for index, clip in enumerate(self.clips)}
        return self.subset(place[clip.clip] for clip in other.clips if clip.clip in place)

    def without(self, people: Collection[str]) -> ClipSet:
        """The clips of all others, in their order."""
        return self.subset(i for i, clip in enumerate(self.clips) if clip.speaker not in people)

    def subset(self, indices: Iterable[int]) -> ClipSet:
        """The clips at these positions, in this order."""
        chosen = [int(index) for index in indices]
        clips, arrays, rows = (tuple(of[i] for i in chosen) for of in (self.clips, self.arrays, self.rows))
        return replace(self, clips=clips, arrays=arrays, rows=rows, damaged={})  # type: ignore[arg-type]

    def mfcc(self, index: int) -> Float32:
        """float32 [frames, coefficients], frames every 10 ms; of codes float32 [steps, d], one step or more."""
        return self._view("mfcc", index, lambda: mfcc_view(self.arrays[index]))

    def statistics(self, index: int) -> Float32:
        """float32 [d]: the statistics of a clip's MFCC, or codes, that most adaptive attackers work on."""
        form = self.arrays[index].form
        return np.asarray(self._view("statistics", index, lambda: statistics_view(form, self.mfcc(index))[None])[0])

    def waveform(self, index: int) -> Float32:
        """float32 [samples] at 16 kHz in [-1, 1]; resynthesized where no sound was released. Raises ReleaseError: codes
        were released, of which no sound can be made."""
        from moretta.shared.features.voice_forms import as_waveform

        found = self.arrays[index]
        return np.asarray(as_waveform(found.form, found.read(), found.codebook))

    def frames(self, index: int) -> UInt8:
        """uint8 [frames, height, width, 3], RGB. Raises ReleaseError: codes were released, of which no picture can be
        made."""
        found = self.arrays[index]
        if found.form != "frames":
            raise ReleaseError(f"a face as {found.form}", expected="frames: no picture can be made of codes")
        return found.read()

    def decode(self, index: int) -> Array:
        """`waveform` or `frames`, by modality."""
        return self.waveform(index) if self.modality == "voice" else self.frames(index)

    def batches(self, size: int) -> list[range]:
        """Positions of all clips in order, at most `size` at a time."""
        return [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    def thumbnails(self, index: int) -> UInt8:
        """uint8 [up to 6, 48, 48, 3]: few small frames spread over the clip, cheap enough to keep at hand."""
        return self._view("thumbnails", index, lambda: thumbnails_of(self.frames(index)))

    def movement(self, index: int) -> UInt8:
        """uint8 [up to 300, 24, 24]: all frames of a clip in grey and tiny, in their order."""
        return self._view("movement", index, lambda: movement_of(self.frames(index)))

    def _view(self, name: str, index: int, make: Callable[[], Array]) -> Array:
        packed = self.views.get(name)
        return make() if packed is None else packed[self.rows[index]]

    def decoded(self) -> ClipSet:
        """The same clips held in memory as sound or as frames: for few clips that several encoders will read."""
        arrays = [self.decode(index) for index in range(len(self))]
        form: Form = "waveform" if self.modality == "voice" else "frames"
        made = ClipSet.from_arrays(self.clips, arrays, modality=self.modality, form=form)
        return replace(made, classes=self.classes)

    def content_key(self, index: int) -> str:
        """SHA-256 over form, shape and bytes: equal content, equal key, whatever the clip is called."""
        found = self.arrays[index]
        array = np.ascontiguousarray(found.read())
        digest = hashlib.sha256(f"{found.form} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data if array.size else b"")
        digest.update(b"" if found.codebook is None else np.ascontiguousarray(found.codebook).data)
        return digest.hexdigest()

    def with_views(
        self,
        folder: Path,
        *,
        pool: Workers | None = None,
        coefficients: int | None = None,
        step: Callable[[int], None] = lambda _: None,
    ) -> ClipSet:
        """The same set with its small views computed once, by a pool's workers or here, and mapped from `folder`.

        Clips that cannot be read are left out and counted in `damaged`. `coefficients`: how many MFCC of waveforms.
        `step` gets how many more clips were read.
        """
        failed: Counter[str] = Counter(self.damaged)
        kept: list[int] = []
        rows: list[int] = []
        sizes: list[tuple[int, ...]] = []
        second: list[Array] = []  # a few kB a clip
        chunks = self.batches(_CHUNK)
        tasks = [(self.subset(chunk), coefficients) for chunk in chunks]

        def readable() -> Iterator[Array]:
            read = in_order((pool or Workers(1)).run(_small_views, tasks))
            for chunk, found in zip(chunks, read, strict=True):
                step(len(found))
                for index, views in zip(chunk, found, strict=True):
                    if isinstance(views, str):
                        failed[views] += 1
                        continue
                    sizes.append(views[0].shape[1:])
                    if sizes[-1] != sizes[0]:
                        failed["other-size"] += 1  # no attacker could take it together with the others
                        continue
                    kept.append(index)
                    rows.append(self.rows[index])
                    second.append(views[1])
                    yield views[0]

        names = ("thumbnails", "movement") if self.holds_pictures else ("mfcc", "statistics")
        written = [PackedArrays.write(folder, names[0], readable(), rows)]
        written.append(PackedArrays.write(folder, names[1], second, rows))
        views = {**self.views, **dict(zip(names, written, strict=True))}
        return replace(self.subset(kept), views=views, damaged=dict(failed))

    @classmethod
    def constant(cls, like: ClipSet) -> ClipSet:
        """The first array of `like` under every clip's name: an attacker that finds identity in it is broken."""
        first = replace(like.arrays[0], read=partial(np.asarray, like.arrays[0].read()))
        views = {name: replace(packed, spans={0: packed.spans[like.rows[0]]}) for name, packed in like.views.items()}
        return replace(like, arrays=(first,) * len(like), rows=(0,) * len(like), views=views, damaged={})

    @classmethod
    def from_arrays(
        cls,
        clips: Sequence[ReleasedClip],
        arrays: Sequence[Array],
        *,
        modality: Modality,
        form: Form,
        codebook: Float32 | None = None,
    ) -> ClipSet:
        """Arrays that are in memory already."""
        held = tuple(ClipArray(form, partial(np.asarray, array), codebook) for array in arrays)
        return cls(tuple(clips), modality, held, tuple(range(len(clips))), classes=_classes(clips))

    @classmethod
    def from_releases(
        cls, releases: Sequence[Release], modality: Modality, *, classes: Sequence[str] | None = None
    ) -> ClipSet:
        """Several sites' releases. Every array is read once to check it; damaged ones are left out and counted."""
        arrays: list[ClipArray] = []
        clips: list[ReleasedClip] = []
        damaged: Counter[str] = Counter()
        for release in releases:
            statement = release.anonymizer(modality)
            if statement is None:
                continue
            form: Any = statement.form
            codebook = release.codebook if modality == "voice" else None  # read once for all of its clips
            for clip, _ in release.arrays(modality):
                clips.append(clip)
                shard = release.folder / str(shard_of(clip, modality))
                arrays.append(ClipArray(form, partial(read_shard, shard, clip.clip), codebook))
            damaged.update(release.damaged)
        rows, known = tuple(range(len(clips))), _classes(clips, classes)
        return cls(tuple(clips), modality, tuple(arrays), rows, damaged=dict(damaged), classes=known)

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        modality: Modality,
        pseudonyms: PseudonymKey | Mapping[SpeakerId, PseudonymKey],
        *,
        loader: FrameLoader | None = None,
        classes: Sequence[str] | None = None,
    ) -> ClipSet:
        """Originals, or another tool's output, under the pseudonyms that the sites gave.

        Clips without this modality are left out. `pseudonyms`: one key, or the key of each speaker's site; `loader` is
        needed for faces; `classes`: the study's; None takes the labels of the clips.
        """
        voice = modality == "voice"
        if not voice and loader is None:
            raise ValueError("faces of a corpus need a loader that crops them")
        chosen = [clip for clip in corpus.clips if (has_sound(clip) if voice else clip.video is not None)]
        meta = []
        for clip in chosen:
            key = pseudonyms if isinstance(pseudonyms, PseudonymKey) else pseudonyms[clip.speaker]
            speaker = corpus.speakers[clip.speaker]
            sex: Any = speaker.sex
            released = ReleasedClip(
                clip=key.clip(clip.name),
                speaker=key.speaker(clip.speaker),
                emotion=clip.label,
                sentence=clip.sentence,
                level=clip.level,
                sex=sex,
                age_group=age_group(speaker.age),
            )
            meta.append(released)
        form: Form = "waveform" if voice else "frames"
        arrays = [ClipArray(form, partial(read_clip, clip, None if voice else loader)) for clip in chosen]
        return cls(tuple(meta), modality, tuple(arrays), tuple(range(len(meta))), classes=_classes(meta, classes))


def _small_views(clips: ClipSet, coefficients: int | None) -> list[tuple[Array, Array] | str]:
    """For each clip MFCC or codes and statistics, or thumbnails and movement; or why it cannot be read."""

    def views(array: ClipArray) -> tuple[Array, Array]:
        if array.form == "frames":  # the next reading would decode and crop all over again
            frames = array.read()
            return thumbnails_of(frames), movement_of(frames)
        sequence = mfcc_view(array, coefficients)
        return sequence, statistics_view(array.form, sequence)[None]

    found: list[tuple[Array, Array] | str] = []
    for array in clips.arrays:
        try:
            found.append(views(array))
        except (ClipError, ReleaseError) as error:
            found.append(getattr(error, "reason", "damaged"))
    return found


def _classes(clips: Iterable[ReleasedClip], classes: Sequence[str] | None = None) -> tuple[str, ...]:
    return classes_among(clip.emotion for clip in clips) if classes is None else tuple(classes)
