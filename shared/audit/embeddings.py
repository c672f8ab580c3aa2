"""Embeddings of encoders used as they are: computed once a clip, shared by all attackers, kept by content."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from moretta.shared.audit.arrays import PackedArrays
from moretta.shared.audit.attackers.base import Attacker, get_embedder
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.protocol import SetName
from moretta.shared.core.array_types import Float32
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.workers import Pace, Progress, Workers

CHUNK_CLIPS = 32


def encoders_for(attackers: Iterable[type[Attacker]]) -> list[str]:
    """Names of the untrained encoders that these attackers are or build on."""
    return list(dict.fromkeys(cls.encoder for cls in attackers if cls.encoder))


def embed_once(
    encoders: list[str],
    sets: dict[SetName, ClipSet],
    scratch: Path,
    cache_dir: Path | None,
    pool: Workers,
    *,
    progress: Progress | None = None,
) -> dict[SetName, ClipSet]:
    """The sets with a view of each encoder's embeddings.

    An encoder that fails on a chunk of clips gets no view: it runs again when it attacks, and its results say why.
    """
    if not encoders:
        return sets
    store = _Store(cache_dir)
    found: dict[tuple[str, str], list[Float32 | None]] = {}
    tasks: list[tuple[tuple[str, ...], ClipSet]] = []
    places: list[tuple[SetName, list[str], list[int]]] = []
    for name, clips in sets.items():
        distinct = clips.subset([0]) if name == "constant" else clips
        keys = [distinct.content_key(i) for i in range(len(distinct))] if cache_dir is not None else []
        for encoder in encoders:
            found[name, encoder] = [store.get(encoder, key) for key in keys] or [None] * len(distinct)
        for start in range(0, len(distinct), CHUNK_CLIPS):
            rows = list(range(start, min(start + CHUNK_CLIPS, len(distinct))))
            # All encoders of a chunk together: sound that must be resynthesized is made once.
            lacking = [e for e in encoders if any(found[name, e][row] is None for row in rows)]
            if lacking:
                tasks.append((tuple(lacking), distinct.subset(rows)))
                places.append((name, keys[start : start + CHUNK_CLIPS], rows))
    pace = Pace(progress, f"clips embedded by {', '.join(encoders)}", sum(len(rows) for _, _, rows in places))
    for index, by_encoder in pool.run(_embed, tasks):
        name, own_keys, rows = places[index]
        for encoder, vectors in by_encoder.items():
            found[name, encoder][rows[0] : rows[-1] + 1] = list(vectors)
            for key, vector in zip(own_keys, vectors, strict=True) if own_keys else ():
                store.put(encoder, key, vector)
        pace.step(len(rows))
    ready: dict[SetName, ClipSet] = {}
    for name, clips in sets.items():
        views, rows = dict(clips.views), [0] if name == "constant" else list(clips.rows)
        for encoder in encoders:
            whole = [vector[None] for vector in found[name, encoder] if vector is not None]
            if len(whole) == len(found[name, encoder]):
                views[f"embedding {encoder}"] = PackedArrays.write(scratch, f"embedding-{name}", whole, rows=rows)
        ready[name] = replace(clips, views=views)
    return ready


def _embed(encoders: tuple[str, ...], clips: ClipSet) -> dict[str, Float32]:
    """What each encoder makes of a chunk; one that fails is left out, and reports why when it attacks."""
    made: dict[str, Float32] = {}
    try:
        decoded = clips.decoded()
    except MorettaError:
        return made
    for encoder in encoders:
        try:
            vectors = np.asarray(get_embedder(encoder)().embed(decoded), np.float32)
        except Exception:  # noqa: S112 - reported when the attacker itself runs
            continue
        if vectors.shape[:1] == (len(clips),) and vectors.ndim == 2 and np.isfinite(vectors).all():
            made[encoder] = vectors
    return made


class _Store:
    """One small file for each embedding, named by encoder, version and content."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, encoder: str, key: str) -> Float32 | None:
        path = self._path(encoder, key)
        if path is None or not path.is_file():
            return None
        try:
            vector = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return None
        return vector.astype(np.float32) if vector.ndim == 1 and np.isfinite(vector).all() else None

    def put(self, encoder: str, key: str, vector: Float32) -> None:
        path = self._path(encoder, key)
        if path is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, vector, allow_pickle=False)
        try:
            write_atomic(path, buffer.getvalue(), mode=0o600)  # of originals it is a biometric template
        except OSError:  # a cache on a full or read-only disk costs time, not the audit
            self._folder = None

    def _path(self, encoder: str, key: str) -> Path | None:
        if self._folder is None:
            return None
        version = get_embedder(encoder).version
        return self._folder / "embeddings" / f"{encoder}-{version}" / key[:2] / f"{key}.npy"
