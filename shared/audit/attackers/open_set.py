"""Open-set attackers that need few speakers: pretrained encoders as they are, and vectors whitened within speakers.

Embeddings of encoders used as they are are computed once a clip, shared by all attackers, and kept by content.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.arrays import PackedArrays
from moretta.shared.audit.attackers.base import Embedder, attacker_row, get_attacker, get_embedder
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.pretrained.face_encoders import FACE_ENCODERS
from moretta.shared.audit.pretrained.face_shape import FaceShape
from moretta.shared.audit.protocol import SetName
from moretta.shared.audit.views import Features, face_picture, motion, plain, voice_statistics
from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Pace, Progress, Workers
from moretta.shared.pretrained.encoder import PretrainedEncoder
from moretta.shared.pretrained.speaker_encoders import SPEAKER_ENCODERS

SHRINKAGES = (0.1, 0.3, 0.6)
_CHUNK = 32
"""Clips decoded at once: bounds memory, whatever the size of the set."""


class PretrainedAttacker(Embedder):
    """An encoder used as it is. Without its weights its results are invalid, with the command that gets them."""

    trainable: ClassVar[bool] = False
    network: ClassVar[type[PretrainedEncoder]]

    @classmethod
    def missing(cls) -> str | None:
        """See `PretrainedEncoder.missing`."""
        return cls.network.missing()

    def embed(self, clips: ClipSet) -> Float32:
        """float32 [clips, dimensions], rows of length 1.

        Raises:
            AttackersError: the weights are not there.
            ClipError: a clip that holds nothing, or values that are not numbers.
        """
        encoder = _loaded(self.network)
        parts = [encoder.embed_many([clips.decode(i) for i in chunk]) for chunk in clips.batches(_CHUNK)]
        return np.concatenate([np.zeros((0, encoder.dimensions), np.float32), *parts])


@cache
def _loaded(encoder: type[PretrainedEncoder]) -> PretrainedEncoder:
    """Loaded once per process: an audit embeds a few clips at a time."""
    return encoder.load()


def embeddings_of(encoder: str, clips: ClipSet) -> Float32:
    """float32 [clips, d]: those that the audit has computed already, or new ones."""
    view = clips.views.get(f"embedding {encoder}")
    if view is not None:
        return np.stack([view[row][0] for row in clips.rows])
    return get_embedder(encoder)().embed(clips)


def embed_once(
    encoders: Sequence[str],
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
    found: dict[tuple[str, str], list[Float32 | None]] = {}
    tasks: list[tuple[tuple[str, ...], ClipSet]] = []
    places: list[tuple[SetName, list[str], range]] = []
    for name, clips in sets.items():
        distinct = clips.subset([0]) if name == "constant" else clips
        keys = [distinct.content_key(i) for i in range(len(distinct))] if cache_dir is not None else []
        for encoder in encoders:
            kept = [_read(_cached(cache_dir, encoder, key)) for key in keys if cache_dir is not None]
            found[name, encoder] = kept or [None] * len(distinct)
        for rows in distinct.batches(_CHUNK):
            # All encoders of a chunk together: sound that must be resynthesized is made once.
            lacking = [e for e in encoders if any(found[name, e][row] is None for row in rows)]
            if lacking:
                tasks.append((tuple(lacking), distinct.subset(rows)))
                places.append((name, keys[rows.start : rows.stop], rows))
    pace = Pace(progress, f"clips embedded by {', '.join(encoders)}", sum(len(rows) for _, _, rows in places))
    for index, by_encoder in pool.run(_embed_chunk, tasks):
        name, own_keys, chunk = places[index]
        for encoder, vectors in by_encoder.items():
            found[name, encoder][chunk.start : chunk.stop] = list(vectors)
            if cache_dir is not None and not _write_all(cache_dir, encoder, own_keys, vectors):
                cache_dir = None
        pace.step(len(chunk))
    ready: dict[SetName, ClipSet] = {}
    for name, clips in sets.items():
        views, packed = dict(clips.views), [0] if name == "constant" else list(clips.rows)
        for encoder in encoders:
            whole = [vector[None] for vector in found[name, encoder] if vector is not None]
            if len(whole) == len(found[name, encoder]):
                views[f"embedding {encoder}"] = PackedArrays.write(scratch, f"embedding-{name}", whole, packed)
        ready[name] = replace(clips, views=views)
    return ready


def _embed_chunk(encoders: tuple[str, ...], clips: ClipSet) -> dict[str, Float32]:
    """Each encoder's embeddings of a chunk; one that fails is left out, and reports why when it attacks."""
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


def _cached(folder: Path, encoder: str, key: str) -> Path:
    """One small file for each embedding, named by encoder, version and content."""
    return folder / "embeddings" / f"{encoder}-{get_embedder(encoder).version}" / key[:2] / f"{key}.npy"


def _read(path: Path) -> Float32 | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return vector.astype(np.float32) if vector.ndim == 1 and np.isfinite(vector).all() else None


def _write_all(folder: Path, encoder: str, keys: list[str], vectors: Float32) -> bool:
    """Whether they were kept. A cache on a full or read-only disk costs time, not the audit."""
    for key, vector in zip(keys, vectors, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, vector, allow_pickle=False)
        try:
            write_atomic(_cached(folder, encoder, key), buffer.getvalue(), mode=0o600)  # maybe a biometric template
        except OSError:
            return False
    return True


def whitening(x: Array, y: Int64, shrinkage: float) -> Callable[[Array], Float32]:
    """A map of [n, d] that whitens by the covariance within speakers y, shrunk towards a sphere.

    With few speakers a discriminant analysis keeps only as many directions as there are; this keeps them all, and
    only turns down those in which one person varies (Hatch et al., Interspeech 2006).
    """
    exact = np.asarray(x, np.float64)
    mean, deviation = exact.mean(0), exact.std(0)
    # A direction in which the training clips are all equal is not known to be small in others: it is left out.
    flat = deviation <= 1e-6 * max(float(deviation.max()), 1e-12)
    scale = np.where(flat, np.inf, deviation)
    scaled = (exact - mean) / scale
    within = np.concatenate([scaled[y == speaker] - scaled[y == speaker].mean(0) for speaker in np.unique(y)])
    covariance = within.T @ within / len(within)
    sphere = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * sphere)
    whiten = vectors / np.sqrt(np.maximum(values, max(float(values.max()) * 1e-6, 1e-12)))
    return lambda x: np.asarray((np.asarray(x, np.float64) - mean) / scale @ whiten, np.float32)


def choose_shrinkage(x: Array, y: Int64, *, seed: int) -> float:
    """The shrinkage that best separates speakers held out of the fit, all of them the attacker's own."""
    speakers = np.random.default_rng(seed).permutation(np.unique(y))
    if len(speakers) < 4:
        return SHRINKAGES[1]
    errors = dict.fromkeys(SHRINKAGES, 0.0)
    for known in (speakers[0::2], speakers[1::2]):
        inside = np.isin(y, known)
        for shrinkage in SHRINKAGES:
            vectors = whitening(x[inside], y[inside], shrinkage)(x[~inside])
            errors[shrinkage] += _equal_error_rate(vectors, y[~inside])
    return min(SHRINKAGES, key=errors.__getitem__)


def _equal_error_rate(vectors: Float32, y: Int64) -> float:
    from moretta.shared.audit.metrics import Trials
    from moretta.shared.audit.metrics.verification import eer
    from moretta.shared.audit.scoring import cosines

    few = np.linspace(0, len(y) - 1, min(len(y), 400)).round().astype(int)
    left, right = np.triu_indices(len(few), 1)
    scores = cosines(vectors[few], vectors[few])[left, right]
    same = y[few][left] == y[few][right]
    return 0.5 if same.all() or not same.any() else eer(Trials(scores, y[few][left], y[few][right]))


class WithinClassEmbedder(Embedder):
    """Learns in which directions a speaker's vectors vary with words, emotion or expression, and ignores them."""

    features: ClassVar[Features]
    components: ClassVar[int | None] = None
    """Principal components that vectors are reduced to, at most; None keeps them as they are."""
    scaled: ClassVar[bool] = False
    """Whether vectors are standardised before they are reduced."""
    learns_features: ClassVar[bool] = False
    """Whether the features themselves depend on clips."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from other speakers' clips."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        self._vectors = type(self).features(clips, seed)
        x, y = self._vectors(clips), clips.labels
        self._middle = np.asarray(x.mean(axis=0), np.float64)
        steps: list[tuple[str, Any]] = [("scale", StandardScaler())] if self.scaled else []
        if self.components is not None:
            steps.append(("reduce", PCA(min(self.components, len(x) - 1, x.shape[1]), svd_solver="full")))
        self._reduce: Callable[[Array], Array] = Pipeline(steps).fit(x).transform if steps else np.asarray
        reduced = self._reduce(x)
        self._whiten = whitening(reduced, y, choose_shrinkage(reduced, y, seed=seed))

    def embed(self, clips: ClipSet) -> Float32:
        """[clips, dimensions]."""
        return self._whiten(self._reduce(self._vectors(clips)))

    def learned(self) -> dict[str, Float32]:
        """All that it has learned, where its features learn nothing: `middle` [d] of the clips, `map` [d, k]."""
        steps = self._middle + np.vstack([np.zeros_like(self._middle), np.eye(len(self._middle))])
        found = np.asarray(self._whiten(self._reduce(steps)), np.float64)
        return {"middle": self._middle.astype(np.float32), "map": (found[1:] - found[0]).astype(np.float32)}

    def take(self, learned: Mapping[str, Array]) -> None:
        """Take over what another attacker of this class has `learned`, in place of `fit`."""
        middle, matrix = (np.asarray(learned[name], np.float64) for name in ("middle", "map"))
        self._vectors = lambda clips: type(self).features(clips, 0)(clips)
        self._reduce = lambda x: np.asarray(x, np.float64) - middle
        self._whiten = lambda x: np.asarray(x @ matrix, np.float32)


class HeadOn(WithinClassEmbedder):
    """A head on the embeddings of an unchanged encoder: the first step of its owner against anonymization."""

    @classmethod
    def missing(cls) -> str | None:
        """As of its encoder."""
        return get_attacker(cls.encoder).missing()


def register_head(encoder: str, modality: Modality) -> None:
    """Register the head of an untrained encoder, as NAME+head."""
    features = staticmethod(plain(partial(embeddings_of, encoder)))
    attacker_row(f"{encoder}+head", HeadOn, modality=modality, encoder=encoder, features=features)


_row = partial(attacker_row, family=WithinClassEmbedder)
_row("voice-wccn", modality="voice", features=staticmethod(plain(voice_statistics)))
_row("face-wccn", modality="face", features=staticmethod(plain(face_picture)), components=150)
# How the face moves is a biometric that a release without any likeness may still carry.
_row(
    "face-motion-wccn",
    modality="face",
    features=staticmethod(motion),
    components=100,
    scaled=True,
    learns_features=True,
)
for _encoder in (*SPEAKER_ENCODERS, *FACE_ENCODERS, FaceShape):
    _settings = {"network": _encoder, "version": _encoder.version, "max_unprotected_eer": _encoder.threshold}
    attacker_row(_encoder.name, PretrainedAttacker, modality=_encoder.modality, kind="pretrained", **_settings)
