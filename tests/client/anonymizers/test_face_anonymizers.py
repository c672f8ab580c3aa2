import os
from pathlib import Path

import numpy as np
import pytest
import torch

from moretta.client.anonymizers.autoencoder import AutoencoderFaceAnonymizer
from moretta.client.anonymizers.face_baselines import BLOCKS, BlurFaceAnonymizer, PixelateFaceAnonymizer
from moretta.shared.core.errors import ClipError, ReleaseError, StudyError
from moretta.shared.features.face_detectors import FaceBox, NoDetector
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, autoencoder_arrays, save_autoencoder
from moretta.shared.privacy.noise import SeededNoise, SystemNoise
from moretta.shared.release.anonymizer import anonymizer_names, get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import parse_study

NAMES = ["autoencoder", "blur", "constant", "none", "pixelate"]
SIDE = 64


class SecondFrameOnly:
    name = "second-frame-only"

    def __init__(self):
        self._frames = 0

    def find_all(self, _):
        self._frames += 1
        return [FaceBox(40, 30, 40)] if self._frames % 3 == 2 else []


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Autoencoder(AutoencoderSpec.preset("small")).eval()


@pytest.fixture(autouse=True)
def no_detector(monkeypatch):
    monkeypatch.setattr("moretta.shared.features.faces.best_detector", NoDetector)


def study(name: str, **face):
    return parse_study({"face": {"anonymizer": name, "preset": "small", **face}})


def built(name: str, model: Autoencoder, **face):
    shared = {f"face/{key}": array for key, array in autoencoder_arrays(model).items()}
    return get_anonymizer("face", name).from_study(study(name, **face), shared)


def clip(frames: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 60, 80, 3)).astype(np.uint8)


def released(anonymizer, *clips, seed=1):
    noise = [SeededNoise(seed, number) for number in range(len(clips))]
    return anonymizer.release(list(clips), noise, ["somebody"] * len(clips))


def test_all_face_anonymizers_are_found_by_name():
    assert set(NAMES) <= set(anonymizer_names("face"))


@pytest.mark.parametrize("name", NAMES)
def test_release_keeps_the_limits_of_the_format(name, model):
    anonymizer = built(name, model)
    for array in released(anonymizer, clip(3), clip(1)):
        check_array("face", anonymizer.form, array)
        assert array.shape[1:] == (SIDE, SIDE, 3)


@pytest.mark.parametrize("name", NAMES)
def test_one_bad_clip_is_an_error_and_the_others_are_released(name, model):
    good, bad, empty, also_good = released(
        built(name, model), clip(2), clip(2).astype(np.float32), clip(2)[:0], clip(2, seed=2)
    )
    assert isinstance(bad, ClipError) and isinstance(empty, ClipError)
    assert isinstance(good, np.ndarray) and isinstance(also_good, np.ndarray)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_release_alone_or_in_company(name, model):
    anonymizer = built(name, model)
    first, _ = released(anonymizer, clip(5), clip(4, seed=2))
    (alone,) = released(built(name, model), clip(5))
    np.testing.assert_array_equal(first, alone)


@pytest.mark.parametrize("name", NAMES)
def test_clip_without_a_face_is_released_from_its_centre_and_counted(name, model):
    anonymizer = built(name, model)
    released(anonymizer, clip(3), clip(2))
    statement = anonymizer.statement({"speaker": [3, 2]}, "seeded")
    seen = {"frames": 5, "frames_without_face": 5, "frames_with_other_faces": 0, "clips_without_face": 2}
    # An anonymizer with an epsilon of 0 states no count of the clips' content
    assert statement.counts == (dict.fromkeys(seen, 0) if name == "constant" else seen)
    assert statement.parameters["detector"] == "none"


def test_frames_that_borrow_a_box_are_counted(model):
    anonymizer = AutoencoderFaceAnonymizer(FaceCropper(SIDE, SecondFrameOnly()), model, noise=0.1)
    released(anonymizer, clip(3))
    counts = anonymizer.statement({}, "seeded").counts
    assert (counts["frames"], counts["frames_without_face"], counts["clips_without_face"]) == (3, 2, 0)


def test_clip_that_failed_is_not_counted_as_released(model):
    anonymizer = built("autoencoder", model)
    released(anonymizer, clip(2)[:0])
    assert anonymizer.statement({}, "seeded").counts["frames"] == 0


def test_autoencoder_promises_nothing_and_says_so(model):
    statement = built("autoencoder", model).statement({}, "system")
    (privacy,) = statement.privacy
    assert privacy.epsilon is None
    assert "not differentially private" in privacy.note
    assert (statement.noise, statement.version) == ("system", "1")
    assert statement.parameters["noise"] == 0.1


def test_other_noise_gives_another_release_and_no_noise_does_not(model):
    noisy, plain = built("autoencoder", model, noise=0.5), built("autoencoder", model, noise=0.0)
    assert (released(noisy, clip(), seed=1)[0] != released(noisy, clip(), seed=2)[0]).any()
    np.testing.assert_array_equal(released(plain, clip(), seed=1)[0], released(plain, clip(), seed=2)[0])
    assert plain.statement({}, "seeded").noise == "none"


def test_system_noise_is_accepted(model):
    (array,) = built("autoencoder", model).release([clip(1)], [SystemNoise()], ["somebody"])
    assert array.shape == (1, SIDE, SIDE, 3)


def test_release_comes_from_the_network_and_not_from_the_clip(model):
    """An untrained network knows no clip: whatever it draws must not look like its input."""
    (array,) = released(built("autoencoder", model, noise=0.0), clip(4))
    (raw,) = released(built("none", model), clip(4))
    correlation = np.corrcoef(array.ravel().astype(float), raw.ravel().astype(float))[0, 1]
    assert abs(correlation) < 0.2


def test_a_network_that_gives_nonsense_releases_grey_for_every_clip(model):
    import copy

    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.decoder[0].bias, float("nan"))
    anonymizer = AutoencoderFaceAnonymizer(FaceCropper(SIDE, NoDetector()), broken, noise=0.1)
    (result,) = released(anonymizer, clip())
    assert set(np.unique(result)) == {128}


@pytest.mark.parametrize("kind", ["file", "endless", "pipe"])
def test_no_weights_are_read_from_a_file_that_the_study_names(tmp_path, model, kind):
    path = {"file": tmp_path / "face.safetensors", "endless": Path("/dev/zero"), "pipe": tmp_path / "pipe"}[kind]
    if kind == "file":
        save_autoencoder(model, path)
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(StudyError, match="weights from the coordinator"):
        AutoencoderFaceAnonymizer.from_study(study("autoencoder", weights=str(path)), {})


def test_autoencoder_without_weights_is_refused():
    with pytest.raises(StudyError, match="train-face"):
        AutoencoderFaceAnonymizer.from_study(study("autoencoder"), {})


def test_autoencoder_of_another_size_than_the_study_is_refused(model):
    shared = {f"face/{key}": array for key, array in autoencoder_arrays(model).items()}
    with pytest.raises(StudyError, match="exact"):
        AutoencoderFaceAnonymizer.from_study(study("autoencoder", preset="exact"), shared)


def test_forged_weights_are_refused(model):
    shared = {f"face/{key}": array for key, array in autoencoder_arrays(model).items()}
    shared["face/encoder.0.weight"] = shared["face/encoder.0.weight"] * np.inf
    with pytest.raises(ReleaseError):
        AutoencoderFaceAnonymizer.from_study(study("autoencoder"), shared)


def detail(pictures: np.ndarray) -> float:
    """Mean difference between neighbouring pixels."""
    return float(np.abs(np.diff(pictures.astype(float), axis=2)).mean())


def test_blur_blurs_but_keeps_the_mean(model):
    (raw,), (blurred,) = released(built("none", model), clip()), released(built("blur", model), clip())
    assert detail(blurred) < 0.05 * detail(raw)
    assert abs(blurred.mean() - raw.mean()) < 3


def test_pixelate_leaves_a_mosaic_of_means(model):
    (raw,), (mosaic,) = released(built("none", model), clip()), released(built("pixelate", model), clip())
    block = SIDE // BLOCKS
    means = raw.reshape(-1, BLOCKS, block, BLOCKS, block, 3).mean((2, 4))
    assert np.abs(mosaic.reshape(-1, BLOCKS, block, BLOCKS, block, 3) - means[:, :, None, :, None]).max() <= 1


def test_constant_is_the_same_for_every_clip(model):
    one, other = released(built("constant", model), clip(5, seed=1), clip(2, seed=2))
    np.testing.assert_array_equal(one, other)
    assert built("constant", model).statement({}, "seeded").privacy[0].epsilon == 0


def test_none_releases_the_crop_itself(model):
    (array,) = released(built("none", model), clip(2))
    np.testing.assert_array_equal(array, FaceCropper(SIDE, NoDetector()).crop_clip(clip(2)).pictures)


@pytest.mark.parametrize("kind", [BlurFaceAnonymizer, PixelateFaceAnonymizer])
def test_baselines_promise_nothing(kind):
    anonymizer = kind(FaceCropper(SIDE, NoDetector()))
    assert anonymizer.statement({}, "system").privacy[0].epsilon is None
    assert anonymizer.statement({}, "system").noise == "none"
