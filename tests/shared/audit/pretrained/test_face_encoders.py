"""Face encoders and the expression network: shapes and weights; figures with the real weights, where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moretta.shared.audit.pretrained.face_api_nets import EXPRESSIONS, ExpressionNet
from moretta.shared.audit.pretrained.face_encoders import (
    DlibEncoder,
    FoundFace,
    SFaceEncoder,
    _scaled,
    cut_square,
    spread,
    whole_frame,
)
from moretta.shared.audit.pretrained.face_network import NAMES, ExpressionEvaluator
from moretta.shared.audit.pretrained.tfjs import fill, read_tfjs
from moretta.shared.core.errors import AttackersError, ClipError
from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.models.head import make_identity, render_clip
from moretta.shared.pretrained.encoder import PretrainedEncoder


class NoFaces:
    """A finder that never finds one."""

    def find(self, rgb: np.ndarray) -> FoundFace | None:
        return None


def pictures(seed: int = 0, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 96, 80, 3), dtype=np.uint8)


def faces(identity: int, emotion: Emotion) -> np.ndarray:
    clip = render_clip(make_identity(identity), emotion, np.full(2, 0.3), fps=2, seed=identity)
    return np.stack(list(clip))


def test_frames_are_spread_over_the_clip() -> None:
    frames = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert [int(frame[0, 0, 0]) for frame in spread(frames, 5)] == [10, 30, 50, 70, 90]
    assert len(spread(frames[:2], 5)) == 2


@pytest.mark.parametrize(
    ("frames", "reason"),
    [(np.zeros((0, 4, 4, 3), np.uint8), "empty"), (np.zeros((4, 4, 3), np.uint8), "bad-frames"),
     (np.zeros((1, 4, 4, 3), np.float32), "bad-frames")],
)  # fmt: skip
def test_what_is_no_clip_of_pictures_is_refused(frames: np.ndarray, reason: str) -> None:
    with pytest.raises(ClipError) as caught:
        spread(frames, 5)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("left", "top"), [(0, 0), (-30, -10), (60, 70), (-20, 80)])
def test_a_square_beyond_the_picture_repeats_its_edge(left: int, top: int) -> None:
    flat = np.full((96, 80, 3), 77, np.uint8)
    crop = cut_square(flat, left, top, 50, 112)
    assert crop.shape == (112, 112, 3)
    assert (crop == 77).all()


def test_a_whole_frame_is_its_middle_in_bgr() -> None:
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[:, 20:60] = (255, 0, 0)
    assert (whole_frame(frame, 20) == (0, 0, 255)).all()


@pytest.mark.parametrize("shape", [(1, 512), (512, 1), (1, 1)])
def test_a_picture_of_any_shape_that_a_release_may_have_can_be_scaled(shape: tuple[int, int]) -> None:
    """As found: a strip of 512 x 1 pixels took the rows of an encoder off the audit."""
    for long_side in DlibEncoder.LONG_SIDES:
        scaled = _scaled(np.zeros((*shape, 3), np.uint8), long_side)
        assert max(scaled.shape[:2]) == long_side and min(scaled.shape[:2]) >= 1


def tensors_of(net: ExpressionNet) -> dict[str, np.ndarray]:
    """A network under TensorFlow's names and axes, spelled out here independently of the reader."""
    tensors = {"fc/weights": net.fc.weight.detach().numpy().T, "fc/bias": net.fc.bias.detach().numpy()}
    for b, block in enumerate(net.blocks):
        for c in range(4):
            conv = getattr(block, f"conv{c}")
            name = f"dense{b}/conv{c}"
            if (b, c) == (0, 0):
                tensors[f"{name}/filters"] = conv.conv.weight.detach().numpy().transpose(2, 3, 1, 0)
                tensors[f"{name}/bias"] = conv.conv.bias.detach().numpy()
                continue
            tensors[f"{name}/depthwise_filter"] = conv.depthwise.conv.weight.detach().numpy().transpose(2, 3, 0, 1)
            tensors[f"{name}/pointwise_filter"] = conv.pointwise.weight.detach().numpy().transpose(2, 3, 1, 0)
            tensors[f"{name}/bias"] = conv.pointwise.bias.detach().numpy()
    return tensors


def test_the_expression_network_takes_all_tensors_and_no_other() -> None:
    torch.manual_seed(0)
    source, target = ExpressionNet(), ExpressionNet()
    tensors = tensors_of(source)
    fill(target, tensors)
    x = torch.rand(2, 3, 112, 112) * 255
    with torch.no_grad():
        torch.testing.assert_close(source(x), target(x))
    del tensors["dense2/conv1/bias"]
    with pytest.raises(AttackersError, match="do not fit"):
        fill(target, tensors)


def test_quantized_weights_are_read_back(tmp_path: Path) -> None:
    layout = [{"weights": [
        {"name": "a", "shape": [2, 2], "dtype": "float32",
         "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}},
        {"name": "b", "shape": [1], "dtype": "float32"},
    ]}]  # fmt: skip
    (tmp_path / "l.json").write_text(json.dumps(layout))
    data = bytes([0, 2, 4, 255]) + np.float32(3.25).tobytes()
    (tmp_path / "w.bin").write_bytes(data)
    read = read_tfjs(tmp_path / "l.json", tmp_path / "w.bin")
    assert read["a"].tolist() == [[-1.0, 0.0], [1.0, 126.5]]
    assert read["b"].tolist() == [3.25]
    for wrong in (data[:-1], data + b"x"):
        (tmp_path / "w.bin").write_bytes(wrong)
        with pytest.raises(AttackersError, match=r"w\.bin"):
            read_tfjs(tmp_path / "l.json", tmp_path / "w.bin")
    (tmp_path / "l.json").write_text('[{"weights": [{"name": 1}]}]')
    with pytest.raises(AttackersError, match="no layout"):
        read_tfjs(tmp_path / "l.json", tmp_path / "w.bin")


def test_the_expression_network_gives_probabilities_of_the_six_emotions() -> None:
    torch.manual_seed(0)
    evaluator = ExpressionEvaluator(ExpressionNet().eval(), NoFaces())  # type: ignore[arg-type]
    found = evaluator.probabilities([pictures(0), pictures(1, 9)])
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert evaluator.probabilities([]).shape == (0, 6)
    assert set(NAMES) == set(EXPRESSIONS) - {"surprised"}


@pytest.mark.parametrize("biased", sorted(NAMES))
def test_the_columns_are_in_the_corpus_order(biased: str) -> None:
    net = ExpressionNet().eval()
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.zero_()
        net.fc.bias[EXPRESSIONS.index(biased)] = 5.0
    evaluator = ExpressionEvaluator(net, NoFaces())  # type: ignore[arg-type]
    assert EMOTIONS[int(evaluator.probabilities([pictures()])[0].argmax())] == NAMES[biased]


@pytest.mark.parametrize("cls", [SFaceEncoder, DlibEncoder, ExpressionEvaluator], ids=lambda cls: cls.name)
def test_without_weights_it_is_absent_and_says_how_to_get_it(
    cls: type[PretrainedEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path))
    reason = cls.missing()
    assert reason is not None
    assert "moretta attackers fetch" in reason or "pip install" in reason


def test_without_dlib_its_encoder_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moretta.shared.audit.pretrained.face_encoders.find_spec", lambda _: None)
    assert "pip install dlib-bin" in (DlibEncoder.missing() or "")


@pytest.mark.parametrize("cls", [SFaceEncoder, DlibEncoder], ids=lambda cls: cls.name)
@pytest.mark.user_cache
def test_the_real_weights_know_a_face_by_another_emotion(cls: type[PretrainedEncoder]) -> None:
    if (reason := cls.missing()) is not None:
        pytest.skip(reason)
    encoder = cls.load()
    clips = [faces(identity, emotion) for identity in (1, 2, 3) for emotion in (Emotion.NEU, Emotion.HAP)]
    found = encoder.embed_many([*clips, pictures()])
    assert found.shape == (7, encoder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    same = found[:6:2] @ found[1:6:2].T
    assert (same.argmax(axis=1) == np.arange(3)).all()


@pytest.mark.user_cache
def test_the_real_network_knows_a_happy_face() -> None:
    if (reason := ExpressionEvaluator.missing()) is not None:
        pytest.skip(reason)
    found = ExpressionEvaluator.load().probabilities(
        [faces(i, e) for i in (1, 2, 3) for e in (Emotion.HAP, Emotion.NEU)]
    )
    happy = found[:, EMOTIONS.index(Emotion.HAP)]
    assert happy[::2].min() > happy[1::2].max()
