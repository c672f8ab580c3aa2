import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.models.autoencoder import (
    BATCH,
    FORMAT,
    Autoencoder,
    AutoencoderSpec,
    Reconstructor,
    UpsampledConvTranspose,
    autoencoder_arrays,
    autoencoder_from_arrays,
    load_autoencoder,
    save_autoencoder,
    stored_tensors,
)

TINY = AutoencoderSpec(side=32, latent=8)


def tiny(seed: int = 1) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(TINY).eval()


def count_parameters(module: torch.nn.Module) -> int:
    """With running statistics, as the design's table counts them."""
    return sum(tensor.numel() for tensor in stored_tensors(module).values())


def test_exact_autoencoder_has_the_parameters_of_the_design():
    with torch.device("meta"):
        model = Autoencoder(AutoencoderSpec())
    assert count_parameters(model.encoder) == 16_865_600
    assert count_parameters(model.decoder) == 17_027_395


def test_each_layer_has_the_parameters_of_the_design():
    with torch.device("meta"):
        model = Autoencoder(AutoencoderSpec())
    layers = [count_parameters(layer) for part in (model.encoder, model.decoder) for layer in part]
    assert [count for count in layers if count] == [
        *(9_728, 512, 73_792, 256, 16_781_312),
        *(16_781_312, 36_928, 256, 204_928, 512, 3_459),
    ]


@pytest.mark.parametrize(("side", "latent"), [(32, 1), (48, 8), (64, 300)])
def test_pictures_come_back_in_their_size_and_range(side, latent):
    model = Autoencoder(AutoencoderSpec(side=side, latent=latent)).eval()
    pictures = torch.rand(2, 3, side, side)
    assert model.encoder(pictures).shape == (2, latent)
    out = model(pictures).detach()
    assert out.shape == pictures.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


@pytest.mark.parametrize(("side", "latent"), [(0, 8), (-16, 8), (16, 8), (100, 8), (1024, 8), (32, 0), (32, 10**9)])
def test_impossible_sizes_are_refused(side, latent):
    with pytest.raises(StudyError):
        AutoencoderSpec(side=side, latent=latent)


def test_small_preset_is_the_one_the_study_names():
    assert AutoencoderSpec.preset("small") == AutoencoderSpec(side=64, latent=300)


def test_upsampled_convolution_is_upsampling_then_transposed_convolution():
    layer = UpsampledConvTranspose(5, 3)
    maps = torch.randn(2, 5, 4, 6)
    repeated = torch.nn.functional.interpolate(maps, scale_factor=2)
    plain = torch.nn.functional.conv_transpose2d(repeated, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(maps), plain)


def test_decoder_upsamples_before_or_after_its_pointwise_layers_alike():
    decoder = tiny().decoder
    latent = torch.randn(2, TINY.latent)
    layers = list(decoder)
    maps = layers[1](layers[0](latent))
    for conv, leak, norm in (layers[2:5], layers[6:9]):
        maps = norm(leak(torch.nn.functional.interpolate(conv(maps), scale_factor=2)))
    last = torch.nn.functional.conv_transpose2d(maps, layers[9].weight, layers[9].bias, padding=1)
    torch.testing.assert_close(decoder(latent), torch.sigmoid(last))


def test_saved_autoencoder_is_the_same_function_when_loaded(tmp_path):
    model = tiny()
    save_autoencoder(model, tmp_path / "face.safetensors")
    loaded = load_autoencoder(tmp_path / "face.safetensors")
    assert loaded.spec == TINY
    pictures = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(pictures), model(pictures), rtol=0, atol=0)


def test_array_form_is_the_same_function():
    model = tiny()
    pictures = torch.rand(2, 3, 32, 32)
    rebuilt = autoencoder_from_arrays(autoencoder_arrays(model))
    torch.testing.assert_close(rebuilt(pictures), model(pictures), rtol=0, atol=0)


def tampered(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors = {name: tensor.clone() for name, tensor in stored_tensors(tiny()).items()}
    metadata = {"format": FORMAT, "side": "32", "latent": "8"}
    first = "encoder.0.weight"
    match kind:
        case "missing":
            del tensors[first]
        case "extra":
            tensors["more"] = torch.zeros(1)
        case "shape":
            tensors[first] = tensors[first].reshape(-1)
        case "type":
            tensors[first] = tensors[first].double()
        case "nan":
            tensors[first][0, 0, 0, 0] = torch.nan
        case "variance":
            tensors["encoder.3.running_var"][0] = -1
        case "size":
            metadata["side"] = "64"
        case "absurd":
            metadata["latent"] = "4000000000"
        case "word":
            metadata["latent"] = "many"
        case "format":
            metadata["format"] = "other"
        case "no-metadata":
            metadata = {}
    return tensors, metadata


KINDS = ["missing", "extra", "shape", "type", "nan", "variance", "size", "absurd", "word", "format", "no-metadata"]


@pytest.mark.parametrize("kind", KINDS)
def test_tampered_file_is_refused(tmp_path, kind):
    tensors, metadata = tampered(kind)
    save_file(tensors, tmp_path / "face.safetensors", metadata=metadata)
    with pytest.raises(StudyError):
        load_autoencoder(tmp_path / "face.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickle", (2**60).to_bytes(8, "little") + b"{}", len(b"[]").to_bytes(8, "little") + b"[]"],
)
def test_file_that_is_no_autoencoder_is_refused(tmp_path, content):
    (tmp_path / "face.safetensors").write_bytes(content)
    with pytest.raises(StudyError):
        load_autoencoder(tmp_path / "face.safetensors")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(StudyError, match="cannot be read"):
        load_autoencoder(tmp_path / "face.safetensors")


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "face.safetensors"
    save_autoencoder(tiny(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError):
        load_autoencoder(path)


def test_header_of_the_file_states_the_size(tmp_path):
    path = tmp_path / "face.safetensors"
    save_autoencoder(tiny(), path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": FORMAT, "side": "32", "latent": "8"}


@pytest.mark.parametrize("spec", [None, np.array([32, 8]).astype(np.int32), np.array([32, 10**12]), np.array([33, 8])])
def test_arrays_with_wrong_sizes_are_refused(spec):
    arrays = autoencoder_arrays(tiny())
    del arrays["spec"]
    if spec is not None:
        arrays["spec"] = spec
    with pytest.raises(ReleaseError):
        autoencoder_from_arrays(arrays)


def test_reconstruction_does_not_depend_on_the_company_of_a_picture():
    reconstruct = Reconstructor(tiny())
    pictures = np.random.default_rng(1).random((BATCH + 3, 32, 32, 3), dtype=np.float32)
    together = reconstruct(pictures)
    alone = np.concatenate([reconstruct(picture[None]) for picture in pictures])
    assert together.dtype == np.uint8
    np.testing.assert_array_equal(together, alone)


def test_fast_reconstruction_is_close_to_the_exact_one():
    model = tiny()
    pictures = np.random.default_rng(1).random((4, 32, 32, 3), dtype=np.float32)
    fast = Reconstructor(model, "bfloat16")(pictures).astype(int)
    exact = (model(torch.from_numpy(pictures).permute(0, 3, 1, 2)).permute(0, 2, 3, 1) * 255).detach().numpy()
    assert np.abs(fast - exact).max() <= 4
    assert np.abs(Reconstructor(model, "float32")(pictures) - exact).max() <= 0.51
