"""Face encoders that others trained, as attackers."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.pretrained.adapter import PretrainedAttacker
from moretta.shared.audit.pretrained.dlib_resnet import DlibEncoder
from moretta.shared.audit.pretrained.sface import SFaceEncoder


@attacker("sface", modality="face", kind="pretrained")
class SFaceAttacker(PretrainedAttacker):
    """SFace, with YuNet to find and align faces."""

    encoder = SFaceEncoder
    version = SFaceEncoder.version
    max_unprotected_eer = SFaceEncoder.threshold


@attacker("dlib", modality="face", kind="pretrained")
class DlibAttacker(PretrainedAttacker):
    """dlib's ResNet, an independent second."""

    encoder = DlibEncoder
    version = DlibEncoder.version
    max_unprotected_eer = DlibEncoder.threshold
