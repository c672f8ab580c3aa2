"""The release of a site: its format, reader and writer. Nothing here is ever unpickled.

A release is a folder::

    statement.json            who (pseudonymous site), how (anonymizers, parameters, privacy), counts, drops by reason
    clips.jsonl               one line a clip: pseudonyms, emotion, sentence, level, which modalities are there
    codebook.safetensors      the voice codebook, where the voice form needs one (public knowledge)
    voice-00000.safetensors   arrays by clip pseudonym
    face-00000.safetensors
"""

from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import PrivacyStatement, VoiceForm
from moretta.shared.release.read_release import Release, open_release
from moretta.shared.release.release_format import FORMAT_VERSION, AnonymizerStatement, ReleasedClip, ReleaseStatement
from moretta.shared.release.write_release import ReleaseWriter

__all__ = [
    "FORMAT_VERSION",
    "AnonymizerStatement",
    "PrivacyStatement",
    "PseudonymKey",
    "Release",
    "ReleaseStatement",
    "ReleaseWriter",
    "ReleasedClip",
    "VoiceForm",
    "open_release",
]
