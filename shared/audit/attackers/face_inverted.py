"""The least likely person, where a classifier does worse than chance on clips that it has not seen."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.attackers.face_forest import FaceForest
from moretta.shared.audit.attackers.face_knn import FaceNeighbours
from moretta.shared.audit.attackers.face_logistic import FaceLogistic
from moretta.shared.audit.attackers.face_svm import FaceSvm
from moretta.shared.audit.learn.inverted import InvertedIdentifier
from moretta.shared.audit.learn.tabular import VectorIdentifier


@attacker("face-inverted", modality="face")
class FaceInverted(InvertedIdentifier):
    """The quick classifiers, in every setting."""

    classifiers: ClassVar[tuple[type[VectorIdentifier], ...]] = (FaceForest, FaceNeighbours, FaceSvm, FaceLogistic)
    cost: ClassVar[int] = 2
