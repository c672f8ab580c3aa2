"""A head trained on the embeddings of an encoder used as it is: what its owner would do first against anonymization."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker, get_attacker, registered
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.compensation import WithinClass, choose_shrinkage


class HeadOn(Embedder):
    """Within-speaker whitening of another attacker's embeddings. One is registered for every encoder, as NAME+head."""

    encoder: ClassVar[str]

    @classmethod
    def missing(cls) -> str | None:
        """What its encoder misses."""
        return get_attacker(cls.encoder).missing()

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from embeddings of released clips what the encoder should ignore in them."""
        x, y = embeddings_of(self.encoder, clips), clips.labels
        self._head = WithinClass(choose_shrinkage(x, y, seed=seed)).fit(x, y)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, dimensions of the encoder]."""
        return self._head.transform(embeddings_of(self.encoder, clips))


def embeddings_of(encoder: str, clips: ClipSet) -> Floats:
    """float32 [clips, d]: those that the audit has computed already, or new ones."""
    view = clips.views.get(f"embedding {encoder}")
    if view is not None:
        return np.stack([view[row][0] for row in clips.rows])
    cls = get_attacker(encoder)
    assert issubclass(cls, Embedder)
    return cls().embed(clips)


def register_heads() -> None:
    """One head for every registered encoder that has none yet."""
    names = {cls.name for cls in registered()}
    for cls in registered():
        name = f"{cls.name}+head"
        if issubclass(cls, Embedder) and not cls.trainable and name not in names:
            made = type("HeadOn" + cls.__name__, (HeadOn,), {"encoder": cls.name, "__doc__": f"A head on {cls.name}."})
            attacker(name, modality=cls.modality)(made)
