"""What voice anonymizers without noise and without tokens have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moretta.client.anonymize.registry import Array
from moretta.shared.errors import StudyError
from moretta.shared.features.mfcc import check_samples
from moretta.shared.release.format import PrivacyStatement, PrivacyUnit, VoiceForm

UNITS: tuple[PrivacyUnit, ...] = ("value", "frame", "clip", "speaker")


def waveform_form(name: str, form: VoiceForm) -> VoiceForm:
    """The form if it can be made from a waveform without a codebook.

    Raises:
        StudyError: the study wants tokens.
    """
    if form == "tokens":
        raise StudyError(
            f"the voice anonymizer {name!r} with the form tokens",
            expected="the form mfcc or waveform",
            fix="set `form` in [voice]",
        )
    return form


def each_clip(clips: Sequence[Array], release: Callable[[Array], Array]) -> list[Array | Exception]:
    """`release` of every clip that can be used, float32 [samples]; the error in the place of every other."""
    out: list[Array | Exception] = []
    for clip in clips:
        try:
            out.append(release(check_samples(clip)))
        except Exception as error:  # fail closed: whatever went wrong, this clip has no release
            out.append(error)
    return out


def no_guarantee(mechanism: str, note: str) -> tuple[PrivacyStatement, ...]:
    """At no unit a finite epsilon."""
    return tuple(PrivacyStatement(mechanism=mechanism, unit=unit, epsilon=None, note=note) for unit in UNITS)
