"""w2v-BERT 2.0 features, the SSL front end of the paper's scale.

Shape letters: B batch, S samples at 16 kHz, T frames at 50 Hz, C feature width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.tokens.ssl_features import FilterbankFeatures, SSLFeatures, stack_frames

if TYPE_CHECKING:
    from transformers import Wav2Vec2BertModel


class W2vBertFeatures(SSLFeatures):
    """Hidden state `layer` of w2v-BERT 2.0, by stored mean and deviation (MaskGCT, 2409.00750, section 3.2.1).

    The encoder, up to that layer, is a folder or a name on the model hub (which needs HF_HUB_OFFLINE=0). It is loaded
    when it is first used, by `load`, which can be set to take it from elsewhere, such as a bundle, and is no part of
    this module's weights.
    """

    def __init__(self, encoder: str = "facebook/w2v-bert-2.0", layer: int = 17, dim: int = 1024) -> None:
        super().__init__(dim)
        self.encoder, self.layer = encoder, layer
        self.load: Callable[[], Wav2Vec2BertModel] = partial(load_encoder, encoder, layer)
        # In lists, so that neither becomes a part of the weights.
        self._filterbank = [FilterbankFeatures()]
        self._encoder: list[Wav2Vec2BertModel] = []

    def encoder_weights(self) -> Mapping[str, Tensor]:
        """Return the encoder's weights; it does not stay in memory where it was not in use before."""
        encoder = self._encoder[0] if self._encoder else self.load()
        return {f"encoder.{name}": value for name, value in encoder.state_dict().items()}

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the number of whole stacked filter-bank frames."""
        return self._filterbank[0].num_frames(num_samples)

    @torch.no_grad()
    def unnormalised(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the encoder's hidden states (B, T, C); frames of padding hold no meaning."""
        if not self._encoder:
            self._encoder.append(self.load().eval().requires_grad_(False))
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device) if lengths is None else lengths
        mel = self._filterbank[0].to(wave.device).log_mel(wave)
        # Each bin gets mean 0 and deviation 1 over its utterance, whose odd frame at the end counts, too.
        counts = ((lengths - 400).div(160, rounding_mode="floor") + 1).clamp(min=2)[:, None, None]
        valid = torch.arange(mel.shape[1], device=wave.device)[:, None] < counts
        mean = (mel * valid).sum(dim=1, keepdim=True) / counts
        variance = ((mel - mean).square() * valid).sum(dim=1, keepdim=True) / (counts - 1)
        frames = stack_frames((mel - mean) / (variance + 1e-7).sqrt() * valid)
        attended = torch.arange(frames.shape[1], device=wave.device) < self.num_frames(lengths)[:, None]
        # By the base class: transformers' own `to` is declared without its type.
        nn.Module.to(self._encoder[0], wave.device)
        return self._encoder[0](input_features=frames, attention_mask=attended.long()).last_hidden_state


def load_encoder(source: str, layers: int) -> Wav2Vec2BertModel:
    """Return the first layers of a w2v-BERT encoder; a `UserError` if there is none, or no transformers."""
    transformers = _import_transformers()

    class FirstLayers(transformers.Wav2Vec2BertModel):  # type: ignore[name-defined]
        # The layers above are left out on purpose: no report of their weights.
        _keys_to_ignore_on_load_unexpected = [r"encoder\.layers\."]

    try:
        # Safetensors only: the other format of such folders is a pickle.
        return FirstLayers.from_pretrained(source, num_hidden_layers=layers, use_safetensors=True)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"w2v-BERT encoder {source!r}: neither a folder nor on the model hub ({reason})") from error


ENCODER_SETTINGS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "feature_projection_input_dim",
    "hidden_act", "layer_norm_eps", "position_embeddings_type", "rotary_embedding_base", "max_source_positions",
    "left_max_position_embeddings", "right_max_position_embeddings", "conv_depthwise_kernel_size", "mask_time_prob",
    "mask_feature_prob",
)  # fmt: skip
"""The settings that build an encoder. Others of a file are not passed on: some name code to be fetched."""


def build_encoder(config: Mapping[str, Any]) -> Wav2Vec2BertModel:
    """Return a freshly initialised encoder by the settings of transformers among `ENCODER_SETTINGS`."""
    transformers = _import_transformers()
    settings = {key: value for key, value in config.items() if key in ENCODER_SETTINGS}
    return transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**settings))


def _import_transformers() -> Any:  # noqa: ANN401  a module
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError("w2v-BERT features need transformers: pip install 'metis-lightning[ssl]'") from error
