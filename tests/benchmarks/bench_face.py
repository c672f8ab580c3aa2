"""The face autoencoder, one thread: as the anonymizer runs it against the same network plainly in PyTorch float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from moretta.shared.core.workers import limit_threads
from moretta.shared.models.autoencoder import (
    BATCH,
    LEAK,
    Autoencoder,
    AutoencoderSpec,
    Preset,
    Reconstructor,
    UpsampledConvTranspose,
)
from tests.benchmarks.figures import paired, quick

PRESETS: tuple[Preset, ...] = ("exact", "small")
LEAST_DB = 40.0


def plain(model: Autoencoder) -> nn.Module:
    """The layers in the design's order: upsampling first, then everything on the large picture."""
    layers: list[nn.Module] = []
    for layer in model.decoder:
        if isinstance(layer, UpsampledConvTranspose):
            whole = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 3, padding=1)
            whole.load_state_dict(layer.state_dict())
            layers += [nn.Upsample(scale_factor=2), whole]
        elif isinstance(layer, nn.Upsample):
            at = max(index for index, each in enumerate(layers) if isinstance(each, nn.ConvTranspose2d))
            layers.insert(at + 1, layer)
        else:
            layers.append(layer)
    assert sum(isinstance(layer, nn.LeakyReLU) and layer.negative_slope == LEAK for layer in layers) == 2
    return nn.Sequential(model.encoder, *layers).eval()


def main() -> None:
    """A row for each preset."""
    limit_threads(1)
    for preset in PRESETS:
        torch.manual_seed(1)
        model = Autoencoder(AutoencoderSpec.preset(preset)).eval()
        network, reconstruct = plain(model), Reconstructor(model)
        side, count = model.spec.side, BATCH * (1 if quick() else 3)
        pictures = np.random.default_rng(1).random((count, side, side, 3), dtype=np.float32)
        maps = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()

        def theirs(network: nn.Module = network, maps: torch.Tensor = maps) -> np.ndarray:
            with torch.inference_mode():
                return torch.cat([network(part) for part in maps.split(BATCH)]).permute(0, 2, 3, 1).numpy()

        error = np.mean(np.square(reconstruct(pictures) / np.float32(255) - theirs()))
        quality = -10 * float(np.log10(error))
        assert quality >= LEAST_DB, f"{quality:.1f} dB"
        paired(
            f"autoencoder-{preset}",
            f"autoencoder inference, preset {preset}, {reconstruct.precision}",
            "PyTorch float32",
            lambda reconstruct=reconstruct, pictures=pictures: reconstruct(pictures),
            theirs,
            target=3.5,
            better="higher",
            detail={"psnr_db": quality, "pictures": count},
        )


if __name__ == "__main__":
    main()
