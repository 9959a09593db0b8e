"""Tokens of a padded batch are those of each row alone, token for token, on real speech and the trained nano codecs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.weights.build import load_tokenizer
from metis_lightning.weights.bundle import bundle_folder
from tiny import ACOUSTIC


@pytest.fixture(scope="module", params=["nano", "tiny"])
def tokenizer(request: pytest.FixtureRequest, tiny_bundle: Path) -> SpeechTokenizer:
    return load_tokenizer(tiny_bundle if request.param == "tiny" else bundle_folder("nano"))


@pytest.fixture(scope="module")
def speech() -> tuple[Tensor, Tensor]:
    """Six utterances of different lengths, padded, and their lengths; none is a whole number of frames."""
    listed = [u for u in read_manifest(STARTER_ROOT / "starter.jsonl") if 1.0 < u.seconds < 3.0][::40][:6]
    corpus = SpeechCorpus(listed)
    waves = [corpus.wave(index)[: -(7 * index + 1)] for index in range(len(corpus))]
    assert len({len(wave) for wave in waves}) == 6
    return pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])


def assert_rows_alone(together: Tensor, alone: Callable[[Tensor], Tensor], wave: Tensor, lengths: Tensor) -> None:
    for row, length in enumerate(lengths.tolist()):
        expected = alone(wave[row : row + 1, :length])[0]
        assert torch.equal(together[row, : len(expected)], expected), f"row {row} of length {length}"


@torch.no_grad()
def test_ssl_tokens(tokenizer: SpeechTokenizer, speech: tuple[Tensor, Tensor]) -> None:
    wave, lengths = speech
    together, frames = tokenizer.ssl_tokens(wave, lengths)
    assert_rows_alone(together, lambda one: tokenizer.ssl_tokens(one, torch.tensor([one.shape[1]]))[0], wave, lengths)
    assert len(set(frames.tolist())) > 1


@torch.no_grad()
def test_acoustic_tokens(tokenizer: SpeechTokenizer, speech: tuple[Tensor, Tensor]) -> None:
    wave, lengths = speech
    together = tokenizer.acoustic_tokens(wave, lengths)
    assert_rows_alone(together, tokenizer.acoustic_tokens, wave, lengths)


@torch.no_grad()
@pytest.mark.parametrize("mel_layers", [0, 2])
def test_latents_do_not_depend_on_what_follows(mel_layers: int) -> None:
    torch.manual_seed(0)
    encoder = AcousticCodec(replace(ACOUSTIC, mel_encoder_layers=mel_layers)).eval().encoder
    for parameter in encoder.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    wave, lengths = torch.randn(2, 1, 4_800), torch.tensor([4_800, 1_920])
    expected = encoder(wave[1:, :, :1_920])[0]
    torch.testing.assert_close(encoder(wave, lengths)[1, :, :4], expected, rtol=1e-5, atol=1e-6)
    # Without the lengths the padding reaches the last frames: the test can fail.
    padded = wave * (torch.arange(4_800) < lengths[:, None, None])
    assert (encoder(padded)[1, :, :4] - expected).abs().max() > 1e-3
