"""Speaker encoders that others trained, as attackers."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.pretrained.adapter import PretrainedAttacker
from moretta.shared.audit.pretrained.campplus import CamPlusPlusEncoder
from moretta.shared.audit.pretrained.ge2e import Ge2eEncoder
from moretta.shared.audit.pretrained.hubert import HubertEncoder, Wav2Vec2Encoder


@attacker("campplus", modality="voice", kind="pretrained")
class CamPlusPlusAttacker(PretrainedAttacker):
    """CAM++, the strongest speaker encoder here."""

    encoder = CamPlusPlusEncoder
    version = CamPlusPlusEncoder.version
    max_unprotected_eer = CamPlusPlusEncoder.threshold


@attacker("ge2e", modality="voice", kind="pretrained")
class Ge2eAttacker(PretrainedAttacker):
    """GE2E, the classic."""

    encoder = Ge2eEncoder
    version = Ge2eEncoder.version
    max_unprotected_eer = Ge2eEncoder.threshold


@attacker("hubert", modality="voice", kind="pretrained")
class HubertAttacker(PretrainedAttacker):
    """HuBERT, not trained to tell speakers."""

    encoder = HubertEncoder
    version = HubertEncoder.version
    max_unprotected_eer = HubertEncoder.threshold


@attacker("wav2vec2", modality="voice", kind="pretrained")
class Wav2Vec2Attacker(PretrainedAttacker):
    """wav2vec 2.0, not trained to tell speakers."""

    encoder = Wav2Vec2Encoder
    version = Wav2Vec2Encoder.version
    max_unprotected_eer = Wav2Vec2Encoder.threshold
