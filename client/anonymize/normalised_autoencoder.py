"""An autoencoder's code, relative to the person's own usual code, decoded as one public person.

The original autoencoder passes on the whole code, and with it who it is. Here only the few directions in which faces
move are kept of it, on a scale that everybody shares, and the rest of the code is the public person's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from moretta.client.anonymize.autoencoder import trained_autoencoder
from moretta.client.anonymize.face_base import Pictures
from moretta.client.anonymize.face_personal import PersonalFaceAnonymizer
from moretta.client.anonymize.registry import Array, anonymizer
from moretta.shared.corpus.head.portrait import PUBLIC_PERSON
from moretta.shared.errors import StudyError
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.person_scale import Measures
from moretta.shared.public import CODE_PREFIX
from moretta.shared.study import Study

if TYPE_CHECKING:
    from moretta.shared.models.autoencoder import Autoencoder
    from moretta.shared.models.expression_code import ExpressionCode


@anonymizer("normalised-autoencoder", modality="face", version="1")
class NormalisedAutoencoder(PersonalFaceAnonymizer):
    """Releases the public person's face, decoded from its own code and the person's change of expression.

    Args:
        cropper: its side is the network's.
        model: a trained autoencoder.
        code: which directions of its code are released.
        fps: frames per second of the clips.
    """

    note = (
        "no formal guarantee: a few numbers a frame are released of the person's code, relative to the person's own; "
        "how the face moves, and what those numbers take for movement, can still tell people apart; noise on each "
        "clip was chosen by attack, not by proof"
    )

    def __init__(self, cropper: FaceCropper, model: Autoencoder, code: ExpressionCode, *, fps: float) -> None:
        from moretta.shared.models.codec import Codec

        super().__init__(cropper, code.public, fps=fps)
        self._codec = Codec(model)
        self._code = code

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:
        """Network and directions from the coordinator's arrays.

        Raises:
            StudyError: there are none, or they are of another size than the study's preset.
            ReleaseError: the arrays are not what they should be.
        """
        from moretta.shared.models.expression_code import ExpressionCode

        model = trained_autoencoder(study, shared)
        if not any(name.startswith(CODE_PREFIX) for name in shared):
            raise StudyError(
                "an autoencoder without the directions of expression in its code",
                expected="both from the coordinator",
                fix="let the coordinator make what is public for this study",
            )
        code = ExpressionCode.from_arrays(shared, CODE_PREFIX, latent=model.spec.latent)
        made = cls(FaceCropper(model.spec.side), model, code, fps=study.face.fps)
        return made.with_noise_of(study.face)

    def measured(self, pictures: Pictures) -> Measures:
        """The codes' few directions of expression."""
        return self._code.measures(self._codec.encode(pictures))

    def drawn(self, normal: Measures) -> Pictures:
        """The public person, as the decoder draws it."""
        return self._codec.decode(self._code.worn(self._public.values(normal)))

    def parameters(self) -> dict[str, Any]:
        """Sizes, arithmetic, and whose face it is."""
        own: dict[str, Any] = {"latent": self._codec.spec.latent, "dimensions": len(self._public.middle)}
        own |= {"precision": self._codec.precision, "public_person": PUBLIC_PERSON}
        return {**super().parameters(), **own}
