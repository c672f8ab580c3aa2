"""Code on a GPU gives the results of the CPU, and moves all its tensors there.

Each check runs on a pretended GPU, and on a real one where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.client.training.data import TrainingSet
from moretta.client.training.local_training import train_locally
from moretta.shared.audit.attackers.base import Identifier, get_attacker
from moretta.shared.audit.inference.inversion import ConvDecoder
from moretta.shared.audit.inference.trained_models import Recipe, predictor
from moretta.shared.audit.inference.twelve_networks import infer_by_twelve
from moretta.shared.audit.pretrained.face_api_nets import ExpressionNet
from moretta.shared.audit.pretrained.face_network import ExpressionEvaluator
from moretta.shared.core import device as devices
from moretta.shared.core.device import DEVICE_VARIABLE, computing_on
from moretta.shared.core.errors import Interrupted, StudyError
from moretta.shared.models.autoencoder import AutoencoderSpec
from moretta.shared.models.emotion import emotion_model
from moretta.shared.models.train_autoencoder import train_autoencoder
from moretta.shared.models.training_state import TrainOptions
from moretta.shared.pretrained.nets import CamPlusPlus, Ge2e
from moretta.shared.pretrained.speaker_encoders import CamPlusPlusEncoder, Ge2eEncoder
from moretta.shared.study.schema import parse_study
from tests.elsewhere import FarTensor, elsewhere
from tests.shared.audit.speakers import faces, voices

pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter")  # which the pretended GPU's are not
CPU = torch.device("cpu")
RNG = np.random.default_rng(5)


def _absent(name: str) -> str:
    return devices._why_not(name)


@pytest.fixture(
    params=[
        "elsewhere",
        *(
            pytest.param(name, marks=pytest.mark.skipif(bool(_absent(name)), reason=f"no {name} here: {_absent(name)}"))
            for name in ("cuda", "mps")
        ),
    ]
)
def on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a function with the device, which is also that of attackers."""

    def call(work: Callable[[torch.device], Any]) -> Any:
        if request.param != "elsewhere":
            with computing_on(request.param) as device:
                return work(device)
        with monkeypatch.context() as patch, elsewhere(patch) as device:
            patch.setenv(DEVICE_VARIABLE, "elsewhere")  # any other request for a device fails
            for module in (
                "audit.attackers.networks",
                "audit.pretrained.face_network",
                "audit.inference.inversion",
                "audit.inference.trained_models",
                "audit.inference.twelve_networks",
                "pretrained.speaker_encoders",
            ):
                patch.setattr(f"moretta.shared.{module}.computing_device", lambda: device)
            return work(device)

    return call


def _trained(folder: Path, device: torch.device, kind: str, **privacy: Any) -> dict[str, np.ndarray]:
    """One round of the voice model with fixed noise, on clips of six speakers."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 40)
    features = rng.standard_normal((40, 24) if kind == "statistics" else (40, 13, 60)).astype(np.float32)
    names = tuple(f"s{number % 6}" for number in range(40)), tuple(f"c{number}" for number in range(40))
    study = parse_study({"face": {"enabled": False}, "train": {"rounds": 3}, "privacy": privacy})
    budget, model = SiteBudget(Ledger(folder / "ledger"), "key", BudgetLimits.unlimited()), emotion_model("voice", kind)
    torch.manual_seed(0)
    weights = dict(model.build(features.shape[1:]).state_dict())
    data = TrainingSet(features, labels, *names)
    made = train_locally(model, weights, data, study, budget, round_number=1, seed=3, proximal=0.1, device=device)
    return {name: np.asarray(tensor) for name, tensor in made.weights.items()}


@pytest.mark.parametrize(
    "privacy",
    [{"unit": "clip"}, {"unit": "speaker"}, {"dp_sgd": False}],
    ids=["clip", "speaker", "plain"],
)
@pytest.mark.parametrize("kind", ["statistics", "cnn"])
def test_local_training_gives_the_cpus_update(tmp_path: Path, on_device: Any, kind: str, privacy: Any) -> None:
    (tmp_path / "far").mkdir()
    expected = _trained(tmp_path, CPU, kind, **privacy)
    found = on_device(lambda device: _trained(tmp_path / "far", device, kind, **privacy))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["voice-ecapa", "face-cnn"])
def test_network_attackers_learn_there(on_device: Any, name: str) -> None:
    clips = voices(speakers=3, clips=6) if name.startswith("voice") else faces(speakers=3, clips=6)

    def attack(_: torch.device) -> Any:
        attacker = get_attacker(name)()
        attacker.fit(clips, seed=1)
        assert isinstance(attacker, Identifier)
        return attacker.scores(clips)

    scores = on_device(attack)
    assert isinstance(scores, np.ndarray)
    assert (scores.argmax(1) == clips.labels).mean() > 0.8


def _vectors(encoder: Any, clips: list[np.ndarray]) -> np.ndarray:
    return np.asarray(encoder.vectors(clips))


@pytest.mark.parametrize(("encoder", "network"), [(CamPlusPlusEncoder, CamPlusPlus), (Ge2eEncoder, Ge2e)])
def test_speaker_encoders_give_the_cpus_embeddings(on_device: Any, encoder: Any, network: Any) -> None:
    clips = [RNG.standard_normal(length).astype(np.float32) / 10 for length in (16_000, 40_000)]

    def embed(_: torch.device) -> np.ndarray:
        torch.manual_seed(0)
        return _vectors(encoder(network()), clips)

    np.testing.assert_allclose(on_device(embed), embed(CPU), rtol=1e-3, atol=1e-4)


def test_expression_network_gives_the_cpus_probabilities(on_device: Any) -> None:
    class Nobody:
        def find(self, _: Any) -> None:
            return None

    clips = [RNG.integers(0, 255, (4, 60, 60, 3), dtype=np.uint8)]

    def read(_: torch.device) -> np.ndarray:
        torch.manual_seed(0)
        return ExpressionEvaluator(ExpressionNet().eval(), Nobody()).probabilities(clips)  # type: ignore[arg-type]

    np.testing.assert_allclose(on_device(read), read(CPU), rtol=1e-3, atol=1e-4)


def test_the_twelve_networks_answer_as_on_the_cpu(on_device: Any) -> None:
    label = np.repeat(np.arange(8) % 2, 6)
    features = RNG.normal(size=(48, 5)) + 2 * label[:, None]

    def ask(_: torch.device) -> np.ndarray:
        return infer_by_twelve(features, label, np.repeat(np.arange(8), 6), features[:10], seed=1).probability

    np.testing.assert_allclose(on_device(ask), ask(CPU), rtol=0, atol=0.02)


def test_the_decoder_of_pictures_learns_there(on_device: Any) -> None:
    pictures = RNG.random((12, 16, 16, 3), np.float32)
    restored = on_device(
        lambda _: ConvDecoder(steps=150, width=8, batch=4).fit(pictures / 2, pictures).predict(pictures / 2)
    )
    assert np.square(restored - pictures).mean() < np.square(pictures / 2 - pictures).mean()


def test_shadow_models_learn_and_are_read_there(on_device: Any) -> None:
    x, y = RNG.standard_normal((30, 24)).astype(np.float32), RNG.integers(0, 6, 30)
    model = emotion_model("voice", "statistics")
    recipe = Recipe(model, learning_rate=0.1, batch_size=8, epochs=3)
    weights = {name: np.asarray(tensor) for name, tensor in model.build((24,)).state_dict().items()}
    np.testing.assert_allclose(on_device(lambda _: recipe(x, y, 1)(x)), recipe(x, y, 1)(x), rtol=1e-3, atol=1e-4)
    found = on_device(lambda _: predictor(model, weights, (24,))(x))
    np.testing.assert_allclose(found, predictor(model, weights, (24,))(x), rtol=1e-3, atol=1e-4)


def test_the_face_autoencoder_learns_there_and_goes_on_there_from_its_checkpoint(
    tmp_path: Path, on_device: Any
) -> None:
    pictures = np.full((40, 32, 32, 3), 40, np.uint8)
    pictures[:, 8:24, 8:24] = RNG.integers(100, 255, (40, 1, 1, 3), dtype=np.uint8)
    options = TrainOptions(spec=AutoencoderSpec(side=32, latent=16), epochs=3, batch=6, learning_rate=0.003)
    whole = on_device(lambda device: train_autoencoder(pictures, options, device=device))
    assert whole.history[-1].loss < whole.history[0].loss
    assert all(
        parameter.device == CPU and not isinstance(parameter, FarTensor) for parameter in whole.model.parameters()
    )
    on_cpu = train_autoencoder(pictures, options)
    assert whole.psnr == pytest.approx(on_cpu.psnr, abs=3)  # the corruption is drawn otherwise
    steps, checkpoint = iter(range(1, 100)), tmp_path / "face.checkpoint.safetensors"
    with pytest.raises(Interrupted, match="--resume"):
        on_device(
            lambda device: train_autoencoder(
                pictures, options, device=device, checkpoint=checkpoint, stopped=lambda: next(steps) == 9
            )
        )
    again = on_device(lambda device: train_autoencoder(pictures, options, device=device, checkpoint=checkpoint))
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(StudyError, match=r"device \w+, now cpu"):
        train_autoencoder(pictures, options, checkpoint=checkpoint)
