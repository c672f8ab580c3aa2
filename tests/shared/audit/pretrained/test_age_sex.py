"""face-api's network for age and sex: its form, its file of weights, and the order of its outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moretta.shared.audit.pretrained.face_api_nets import SEXES, AgeSexNet, _ReductionBlock
from moretta.shared.audit.pretrained.face_network import AgeSexReader
from moretta.shared.audit.pretrained.tfjs import fill, read_tfjs
from moretta.shared.core.errors import AttackersError

PARTS = {
    "depthwise.conv.weight": "depthwise_filter",
    "pointwise.weight": "pointwise_filter",
    "pointwise.bias": "bias",
    "conv.weight": "filters",
    "conv.bias": "bias",
    "weight": "weights",
    "bias": "bias",
}


class NoFaces:
    def find(self, rgb: np.ndarray) -> None:
        return None


def quantized(net: AgeSexNet, folder: Path) -> tuple[Path, Path]:
    """The network in a file as TensorFlow.js writes it: kernels in 8 bits, biases as they are."""
    weights, data = [], b""
    for key, tensor in net.state_dict().items():
        ending = next(ending for ending in PARTS if key.endswith(f".{ending}"))
        layer = key.removesuffix(f".{ending}").replace(".", "/")
        value = tensor.numpy()
        if ending == "depthwise.conv.weight":
            value = value.transpose(2, 3, 0, 1)
        elif value.ndim > 1:
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        entry: dict[str, object] = {
            "name": f"{layer}/{PARTS[ending]}", "shape": list(value.shape), "dtype": "float32"
        }  # fmt: skip
        if value.ndim > 1:
            low, scale = float(value.min()), float(np.ptp(value)) / 255
            entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": low}
            data += np.round((value - low) / scale).astype(np.uint8).tobytes()
        else:
            data += value.astype(np.float32).tobytes()
        weights.append(entry)
    (folder / "layout.json").write_text(json.dumps([{"weights": weights, "paths": ["w.bin"]}]))
    (folder / "w.bin").write_bytes(data)
    return folder / "layout.json", folder / "w.bin"


def test_a_file_of_weights_makes_the_same_network_up_to_its_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = AgeSexNet(), AgeSexNet()
    tensors = read_tfjs(*quantized(source, tmp_path))
    fill(target, tensors)
    for (name, before), after in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        assert (before - after).abs().max() <= float(before.max() - before.min()) / 255, name
    faces = torch.rand(2, 3, 112, 112) * 255
    with torch.no_grad():
        for before, after in zip(source(faces), target(faces), strict=True):
            torch.testing.assert_close(before, after, atol=0.02, rtol=0)
    del tensors["middle_flow/main_block_1/separable_conv2/bias"]
    with pytest.raises(AttackersError, match="do not fit AgeSexNet"):
        fill(target, tensors)


def test_a_block_at_half_the_size_looks_below_and_to_the_right_at_the_edge_as_tensorflow_does() -> None:
    block = _ReductionBlock(1, 1, activated=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        for conv in (block.separable_conv0, block.separable_conv1):
            conv.depthwise.conv.weight[0, 0, 1, 1] = 1.0
            conv.pointwise.weight.fill_(1.0)
        x = torch.rand(1, 1, 6, 6)
        seen = block(x)[0, 0].numpy()
    expected = [[float(x[0, 0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max()) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


@pytest.mark.parametrize("sex", SEXES)
def test_ages_are_years_and_columns_are_in_the_order_of_the_sexes(sex: str) -> None:
    net = AgeSexNet().eval()
    with torch.no_grad():
        for layer in net.fc.values():
            for parameter in layer.parameters():
                parameter.zero_()
        net.fc["age"].bias.fill_(37.5)
        net.fc["gender"].bias[SEXES.index(sex)] = 4.0
    reader = AgeSexReader(net, NoFaces())  # type: ignore[arg-type]
    clips = [np.random.default_rng(n).integers(0, 255, (n, 40, 50, 3), dtype=np.uint8) for n in (1, 7)]
    ages, sexes = reader.read(clips)
    assert ages.tolist() == [37.5, 37.5] and sexes.shape == (2, 2)
    assert {SEXES[i] for i in sexes.argmax(axis=1)} == {sex}
    np.testing.assert_allclose(sexes.sum(axis=1), 1)
    assert [len(part) for part in reader.read([])] == [0, 0]


def test_without_weights_it_says_how_to_get_them() -> None:
    assert "moretta attackers fetch face-api-age-sex" in (AgeSexReader.missing() or "")
