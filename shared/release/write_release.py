"""Write a release clip by clip: memory does not grow with the corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import Modality
from moretta.shared.release.release_format import (
    CLIPS_FILE,
    CODEBOOK_FILE,
    SHARD_BYTES,
    STATEMENT_FILE,
    AnonymizerStatement,
    ReleasedClip,
    ReleaseStatement,
    check_array,
)


class _Shards:
    """Collects arrays of one modality and writes a shard whenever `SHARD_BYTES` are together."""

    def __init__(self, folder: Path, modality: Modality) -> None:
        self._folder, self._modality = folder, modality
        self._arrays: dict[str, Array] = {}
        self._bytes = 0
        self._index = 0

    def add(self, key: str, array: Array) -> int:
        if self._arrays and self._bytes + array.nbytes > SHARD_BYTES:
            self.flush()
        self._arrays[key] = np.ascontiguousarray(array)
        self._bytes += array.nbytes
        return self._index

    def flush(self) -> None:
        if self._arrays:
            write_atomic(self._folder / f"{self._modality}-{self._index:05d}.safetensors", save(self._arrays))
            self._arrays, self._bytes, self._index = {}, 0, self._index + 1


class ReleaseWriter:
    """Writes one release folder; without `finish` there is no statement, so a half-written one cannot be opened.

    Args:
        folder: must not hold a release yet.
        forms: the released form of each modality that this release may hold.
        codebook: float32 [k, coefficients], where the voice form is tokens.
    """

    def __init__(self, folder: Path, *, forms: dict[Modality, str], codebook: Float32 | None = None) -> None:
        if (folder / STATEMENT_FILE).exists():
            raise ReleaseError(f"a release in {folder}", expected="an empty folder", fix="choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._forms = forms
        self._codebook_size = None if codebook is None else len(codebook)
        self._shards: dict[Modality, _Shards] = {m: _Shards(folder, m) for m in forms}
        self._clips: list[ReleasedClip] = []
        self.dropped: Counter[str] = Counter()
        if codebook is not None:
            write_atomic(folder / CODEBOOK_FILE, save({"codebook": np.ascontiguousarray(codebook, np.float32)}))

    @property
    def clips(self) -> int:
        """Clips so far."""
        return len(self._clips)

    @property
    def speakers(self) -> int:
        """Speakers so far."""
        return len({clip.speaker for clip in self._clips})

    def add(self, clip: ReleasedClip, arrays: dict[Modality, Array]) -> None:
        """Add one clip with its arrays; the shard indices of `clip` are filled in here. Raises ReleaseError: an array
        breaks the format."""
        for modality, array in arrays.items():
            check_array(modality, self._forms[modality], array, codebook_size=self._codebook_size)
        shards: dict[str, int] = {m: self._shards[m].add(clip.clip, array) for m, array in arrays.items()}
        self._clips.append(clip.model_copy(update=shards))

    def finish(self, *, site: str, study: str, anonymizers: tuple[AnonymizerStatement, ...]) -> ReleaseStatement:
        """Write what is left, the clip list and, last, the statement."""
        for shards in self._shards.values():
            shards.flush()
        ordered = sorted(self._clips, key=lambda c: c.clip)  # the order of a corpus would reveal which clip is which
        write_atomic(self._folder / CLIPS_FILE, "".join(c.model_dump_json() + "\n" for c in ordered))
        statement = ReleaseStatement(
            site=site,
            study=study,
            anonymizers=anonymizers,
            clips=self.clips,
            speakers=self.speakers,
            dropped=dict(self.dropped),
        )
        write_atomic(self._folder / STATEMENT_FILE, statement.model_dump_json(indent=2))
        return statement
