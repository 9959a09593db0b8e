"""Quantizers and codecs: round trips, lengths, and independence of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig, InverseSTFT
from metis_lightning.tokens.codec_layers import ResidualVectorQuantizer, WeightNormConv1d
from metis_lightning.tokens.semantic_codec import SemanticCodec
from metis_lightning.types import WAVE_RATE
from tiny import ACOUSTIC, SEMANTIC


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_weight_norm_equals_torchs() -> None:
    ours = WeightNormConv1d(3, 5, 7, stride=2, padding=3)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 5, 7, stride=2, padding=3))
    theirs.load_state_dict({"weight_g": ours.weight_g, "weight_v": ours.weight_v, "bias": ours.bias})
    x = torch.randn(2, 3, 20)
    torch.testing.assert_close(ours(x), theirs(x))


def test_decoding_the_codes_gives_the_quantised_latents() -> None:
    rvq = ResidualVectorQuantizer(8, 4, 16, 4).eval()
    quantized = rvq(torch.randn(2, 8, 10))
    assert quantized.codes.shape == (4, 2, 10)
    torch.testing.assert_close(rvq.decode(quantized.codes), quantized.latents)
    torch.testing.assert_close(rvq.decode(quantized.codes[:1]), rvq.quantizers[0].decode(quantized.codes[0]))


def test_quantizer_dropout_drops_stages_of_some_rows_in_training_only() -> None:
    rvq = ResidualVectorQuantizer(8, 4, 16, 4, quantizer_dropout=0.5)
    latents = torch.randn(8, 8, 10)
    full = rvq.eval()(latents).latents
    dropped = rvq.train()(latents).latents
    same = (full - dropped).abs().amax(dim=(1, 2)) < 1e-6
    assert same[4:].all()
    assert not same[:4].all()


def test_gradients_pass_the_quantizer_straight_through() -> None:
    rvq = ResidualVectorQuantizer(8, 2, 16, 4)
    latents = torch.randn(1, 8, 5, requires_grad=True)
    rvq(latents).latents.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


@torch.no_grad()
def test_acoustic_tokens_cover_the_wave_and_rows_are_independent() -> None:
    codec = AcousticCodec(ACOUSTIC).eval()
    wave = torch.randn(2, 4_900) * 0.1
    tokens = codec.encode(wave)
    assert tokens.shape == (2, 11, 3)
    assert torch.equal(codec.encode(wave[1:])[0], tokens[1])
    assert codec.decode(tokens).shape == (2, 11 * 480)


@torch.no_grad()
def test_semantic_tokens_and_reconstruction() -> None:
    codec = SemanticCodec(SEMANTIC).eval()
    features = torch.randn(2, 9, 160)
    tokens, _ = codec.quantize(features)
    assert tokens.shape == (2, 9)
    torch.testing.assert_close(codec.decoder(codec.quantizer.decode(tokens[None])), codec(features)[0])


def test_inverse_stft_inverts_torchs() -> None:
    wave = torch.randn(1, 4_800)
    padded = torch.nn.functional.pad(wave, (720, 720))
    spectrum = torch.stft(padded, 1_920, 480, window=torch.hann_window(1_920), center=False, return_complex=True)
    torch.testing.assert_close(InverseSTFT(1_920, 480)(spectrum), wave, rtol=0, atol=1e-5)


def test_ratios_must_give_the_hop() -> None:
    with pytest.raises(ValueError, match="hop_size"):
        AcousticCodecConfig(up_ratios=(2, 4))


def test_a_mel_encoder_hears_the_bands_and_hardly_the_phase() -> None:
    encoder = AcousticCodec(replace(ACOUSTIC, d_model=32, mel_encoder_layers=2)).eval().encoder
    times = torch.arange(4_800) / WAVE_RATE

    def latents(hertz: float, phase: float) -> torch.Tensor:
        with torch.no_grad():
            # Without the ends, where a tone begins and breaks off.
            return encoder(0.3 * torch.sin(2 * torch.pi * hertz * times + phase)[None, None])[0, :, 4:-4]

    one = latents(440.0, 0.0)
    assert one.shape == (ACOUSTIC.latent_dim, 2)
    assert 20 * (latents(440.0, 1.5) - one).abs().max() < (latents(660.0, 0.0) - one).abs().max()
