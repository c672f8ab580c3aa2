"""Speaker encoders: shapes and determinism with random weights; known figures with the real ones, where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moretta.shared.core.array_types import unit_rows
from moretta.shared.core.errors import AttackersError, ClipError
from moretta.shared.pretrained.encoder import PretrainedEncoder, load_state, speech_only
from moretta.shared.pretrained.nets import CamPlusPlus, Ge2e
from moretta.shared.pretrained.speaker_encoders import (
    CamPlusPlusEncoder,
    Ge2eEncoder,
    HubertEncoder,
    SelfSupervisedEncoder,
    Wav2Vec2Encoder,
    kaldi_fbank,
    normalize_loudness,
    slaney_mel,
)

RATE = 16_000


def voice(f0: float, seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """A buzz with a formant: enough of a voice for an encoder to have an opinion."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * f0 * k * time) / (1 + ((k * f0 - 700) / 300) ** 2) for k in range(1, 40))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.05 * buzz + 0.002 * noise).astype(np.float32)


def random_encoder(cls: type[PretrainedEncoder]) -> PretrainedEncoder:
    torch.manual_seed(0)
    return CamPlusPlusEncoder(CamPlusPlus()) if cls is CamPlusPlusEncoder else Ge2eEncoder(Ge2e())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=[CamPlusPlusEncoder, Ge2eEncoder], ids=lambda cls: cls.name)
def encoder(request: pytest.FixtureRequest) -> PretrainedEncoder:
    return random_encoder(request.param)


def test_embeddings_have_the_promised_shape(encoder: PretrainedEncoder) -> None:
    clips = [voice(120, 1.0), voice(220, 0.3), voice(150, 3.4), np.zeros(RATE, np.float32), voice(99, 0.01)]
    found = encoder.embed_many(clips)
    assert found.shape == (5, encoder.dimensions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert encoder.embed_many([]).shape == (0, encoder.dimensions)


def test_a_clip_has_the_same_embedding_in_any_company(encoder: PretrainedEncoder) -> None:
    clips = [voice(120, 2.0), voice(220, 1.1), voice(150, 0.6)]
    together = encoder.embed_many(clips)
    np.testing.assert_array_equal(together, encoder.embed_many(clips))
    alone = np.concatenate([encoder.embed_many([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.full(RATE, np.nan, np.float32), "not-finite"),
        (np.zeros((2, 9)), "empty"),
    ],
)
def test_a_clip_that_is_none_is_refused_by_its_reason(
    encoder: PretrainedEncoder, clip: np.ndarray, reason: str
) -> None:
    with pytest.raises(ClipError) as caught:
        encoder.embed_many([clip])
    assert caught.value.reason == reason


def test_silence_at_the_ends_is_not_measured() -> None:
    clip = voice(120, 1.0)
    padded = np.concatenate([np.zeros(8000, np.float32), clip, np.zeros(16000, np.float32)])
    np.testing.assert_allclose(speech_only(padded), speech_only(clip), atol=1e-6)


def test_a_row_of_zeros_stays() -> None:
    assert unit_rows(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def test_quiet_clips_are_raised_and_loud_ones_stay() -> None:
    clip = voice(120)
    level = np.sqrt(np.mean(normalize_loudness(clip * 1e-3) ** 2))
    assert 20 * np.log10(level) == pytest.approx(-30, abs=0.01)
    assert normalize_loudness(clip * 10) is not None
    np.testing.assert_array_equal(normalize_loudness(clip * 10), clip * 10)


def test_fbank_does_not_hear_how_loud_a_clip_is() -> None:
    clip = voice(120)
    fbank = kaldi_fbank(clip)
    assert fbank.shape == (98, 80)
    np.testing.assert_allclose(fbank, kaldi_fbank(clip * 4), atol=1e-2)
    np.testing.assert_allclose(fbank.mean(dim=0), 0, atol=1e-4)


@pytest.mark.parametrize("hz", [300.0, 1000.0, 3000.0])
def test_a_tone_lands_in_the_slaney_band_of_its_frequency(hz: float) -> None:
    tone = np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32)
    mel = slaney_mel(tone)
    assert mel.shape == (101, 40)
    # Slaney's scale: 200/3 Hz per mel up to 1 kHz = 15 mel, then 27 mel per factor 6.4 (Auditory Toolbox, 1998).
    scale = hz * 3 / 200 if hz <= 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)
    top = 15 + 27 * np.log(8) / np.log(6.4)
    assert abs(int(mel[50].argmax()) + 1 - scale / top * 41) <= 1


def test_the_context_mask_is_that_of_the_paper() -> None:
    """Equations 2 to 5: global mean plus segment mean at each frame, not at each segment."""
    from moretta.shared.pretrained.nets import ContextMask

    torch.manual_seed(1)
    layer = ContextMask(dilation=2)
    x = torch.randn(1, 128, 250)
    segments = torch.stack([x[..., 100 * (t // 100) : 100 * (t // 100) + 100].mean(dim=-1) for t in range(250)], dim=-1)
    context = x.mean(dim=-1, keepdim=True) + segments
    mask = torch.sigmoid(layer.linear2(torch.relu(layer.linear1(context))))
    torch.testing.assert_close(layer(x), layer.linear_local(x) * mask)


class TinyPipeline(SelfSupervisedEncoder):
    """The real loading code around a network small enough for a test."""

    name = "tiny"
    dimensions = 2 * 16
    pipeline = "TINY"
    file_name = "tiny.pth"
    speaker_layer = 2

    @classmethod
    def _bundle(cls):
        from torchaudio.pipelines import Wav2Vec2Bundle

        conv = [(8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)]
        sizes = {
            "extractor_mode": "group_norm",
            "extractor_conv_layer_config": conv,
            "extractor_conv_bias": False,
            "encoder_embed_dim": 16,
            "encoder_projection_dropout": 0.1,
            "encoder_pos_conv_kernel": 8,
            "encoder_pos_conv_groups": 2,
            "encoder_num_layers": 3,
            "encoder_num_heads": 2,
            "encoder_attention_dropout": 0.1,
            "encoder_ff_interm_features": 32,
            "encoder_ff_interm_dropout": 0.0,
            "encoder_dropout": 0.1,
            "encoder_layer_norm_first": False,
            "encoder_layer_drop": 0.05,
            "aux_num_out": None,
        }
        return Wav2Vec2Bundle("tiny.pth", sizes, RATE, False, "Wav2Vec2")


def test_self_supervised_networks_load_from_torchs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "torchaudio.pipelines.TINY.get_model()" in (TinyPipeline.missing() or "")
    with pytest.raises(AttackersError, match=r"tiny\.pth"):
        TinyPipeline.load()
    from torchaudio.models import wav2vec2_model

    torch.manual_seed(0)
    TinyPipeline.checkpoint().parent.mkdir(parents=True)
    torch.save(wav2vec2_model(**TinyPipeline._bundle()._params).state_dict(), TinyPipeline.checkpoint())
    encoder = TinyPipeline.load()
    found = encoder.embed_many([voice(120, 1.0), voice(220, 0.1)])
    assert found.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found, encoder.embed_many([voice(120, 1.0), voice(220, 0.1)]))
    TinyPipeline.checkpoint().write_bytes(b"not a checkpoint")
    with pytest.raises(AttackersError, match="delete it"):
        TinyPipeline.load()


@pytest.mark.parametrize("cls", [HubertEncoder, Wav2Vec2Encoder])
def test_weights_are_looked_for_where_torchaudio_keeps_them(
    cls: type[SelfSupervisedEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cls.checkpoint().parent == Path(torch.hub.get_dir()) / "checkpoints"
    assert cls.checkpoint().name == Path(cls._bundle()._path).name


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model_state": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(AttackersError, match="no torch checkpoint"):
        load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cls", [CamPlusPlusEncoder, Ge2eEncoder], ids=lambda cls: cls.name)
def test_without_weights_an_encoder_is_absent_and_says_how_to_get_it(
    cls: type[PretrainedEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path))
    assert f"moretta attackers fetch {cls.name}" in (cls.missing() or "")
    with pytest.raises(AttackersError, match="moretta attackers fetch"):
        cls.load()


def real(cls: type[PretrainedEncoder]) -> PretrainedEncoder:
    if (reason := cls.missing()) is not None:
        pytest.skip(reason)
    return cls.load()


@pytest.mark.parametrize("cls", [CamPlusPlusEncoder, Ge2eEncoder], ids=lambda cls: cls.name)
@pytest.mark.user_cache
def test_the_real_weights_distinguish_two_voices(cls: type[PretrainedEncoder]) -> None:
    found = real(cls).embed_many([voice(110, 1.5, 0), voice(112, 1.7, 1), voice(230, 1.5, 2), voice(233, 1.7, 3)])
    same = found @ found.T
    assert min(same[0, 1], same[2, 3]) > same[:2, 2:].max()
