"""w2v-BERT features, on a tiny random encoder of the same class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.tokens.w2v_bert import W2vBertFeatures

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder of three layers."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_depthwise_kernel_size=3
    )
    folder = tmp_path_factory.mktemp("w2v")
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder)
    return folder


def speech(samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.2 * torch.sin(torch.arange(samples) * 0.06) + 0.05 * torch.randn(samples, generator=generator)


def expected(encoder: Path, wave: torch.Tensor, layer: int) -> torch.Tensor:
    """The hidden state as the published front end and model give it."""
    inputs = transformers.SeamlessM4TFeatureExtractor()(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    model = transformers.Wav2Vec2BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states[layer]


@pytest.mark.parametrize("samples", [8_000, 8_160])
def test_the_hidden_state_is_the_published_front_ends(encoder: Path, samples: int) -> None:
    wave = speech(samples)
    features = W2vBertFeatures(str(encoder), layer=2, dim=16)
    ours, frames = features(wave[None], torch.tensor([samples]))
    theirs = expected(encoder, wave, 2)
    assert ours.shape[1] == int(frames)
    torch.testing.assert_close(ours, theirs[:, : ours.shape[1]], rtol=0, atol=2e-3)


def test_padding_changes_nothing_and_statistics_normalise(encoder: Path) -> None:
    features = W2vBertFeatures(str(encoder), layer=2, dim=16).train()
    length = torch.tensor([8_000])
    alone, frames = features(speech(8_000)[None], length)
    padded = features(torch.nn.functional.pad(speech(8_000), (0, 4_000))[None], length)[0]
    torch.testing.assert_close(padded[:, : int(frames)], alone, rtol=0, atol=1e-4)
    features.mean.fill_(1.0)
    features.std.fill_(2.0)
    torch.testing.assert_close(features(speech(8_000)[None], length)[0], (alone - 1) / 2)


def test_the_encoder_is_no_part_of_the_weights(encoder: Path) -> None:
    features = W2vBertFeatures(str(encoder), layer=1, dim=16)
    features(speech(8_000)[None], torch.tensor([8_000]))
    assert set(features.state_dict()) == {"mean", "std"}
    assert not list(features.parameters())
    assert features.config() == {"encoder": str(encoder), "layer": 1, "dim": 16}


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        W2vBertFeatures(str(tmp_path / "nowhere"))(speech(8_000)[None], torch.tensor([8_000]))
