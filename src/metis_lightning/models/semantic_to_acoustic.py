"""Stage 2: SSL tokens to acoustic tokens, one quantizer layer at a time (MaskGCT, 2409.00750, section 3.2.3).

The same class is the published `s2a_1layer` (one quantizer) and `s2a_full` (all, given the first).
Shape letters: B batch, T frames, Q quantizers, H hidden width, V codebook size. Parameter names are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metis_lightning.models.backbone import Backbone, initialise


@dataclass(frozen=True)
class SemanticToAcousticConfig:
    """Sizes; the defaults are MaskGCT's. `first_layer` is the first layer that the model is trained to predict.

    `temperature` is that of its tokens' noise in sampling (`Sampling`): of a small model the unlikely are mostly wrong.
    """

    num_quantizers: int = 12
    hidden_size: int = 1024
    num_layers: int = 16
    num_heads: int = 16
    codebook_size: int = 1024
    semantic_codebook_size: int = 8192
    first_layer: int = 0
    temperature: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a number from 0 on, got {self.temperature}")

    def layer_weights(self) -> Tensor:
        """Return the chance of each layer (Q,) to be the one that is trained in a step."""
        # The released code's linear schedule, proportional to Q - j over the layers that the model predicts; the
        # paper's p(j) = 1 - 2j/(Q(Q+1)) does not sum to one.
        weights = torch.arange(self.num_quantizers, 0, -1).float()
        weights = torch.cat([torch.zeros(self.first_layer), weights[: self.num_quantizers - self.first_layer]])
        return weights / weights.sum()


class SemanticToAcoustic(nn.Module):
    """Predicts the masked tokens of one quantizer layer from SSL tokens and the layers below."""

    def __init__(self, config: SemanticToAcousticConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.layer_emb = nn.Embedding(config.num_quantizers, size)
        self.mask_emb = nn.Embedding(1, size)
        self.token_emb = nn.ModuleList(nn.Embedding(config.codebook_size, size) for _ in range(config.num_quantizers))
        self.to_logits = nn.ModuleList(nn.Linear(size, config.codebook_size) for _ in range(config.num_quantizers))
        self.cond_emb = nn.Embedding(config.semantic_codebook_size, size)
        self.diff_estimator = Backbone(size, config.num_layers, config.num_heads, cond_mlp=True)
        for layer in (self.layer_emb, self.mask_emb, self.cond_emb, self.token_emb, self.to_logits):
            initialise(layer)

    def embed(self, tokens: Tensor, mask: Tensor, layer: int, prompt: Tensor) -> Tensor:
        """Return embeddings (B, T, H) of acoustic tokens (B, T, Q) while `layer` is being predicted.

        Layers below it are given, it is masked where mask (B, T) is True, those above it but where prompt (B, T) is.
        """
        hidden = torch.where(mask[..., None], self.mask_emb.weight, self.token_emb[layer](tokens[..., layer]))
        # In order and one by one: a sum in another order differs in the last bits.
        for index, embedding in enumerate(self.token_emb):
            if index < layer:
                hidden = hidden + embedding(tokens[..., index])
            elif index > layer:
                hidden = hidden + torch.where(prompt[..., None], embedding(tokens[..., index]), self.mask_emb.weight)
        return hidden

    def condition(self, ssl_tokens: Tensor, layer: int) -> Tensor:
        """Return the condition embeddings (B, T, H) of SSL tokens (B, T) for predicting `layer`."""
        return self.cond_emb(ssl_tokens) + self.layer_emb.weight[layer]

    def other_layers(self, lower: Tensor, layer: int) -> Tensor:
        """Return what layers but `layer` add to embeddings (T, H) outside the prompt; `lower` (T, layer) are known."""
        total = (self.config.num_quantizers - 1 - layer) * self.mask_emb.weight.expand(len(lower), -1)
        for index in range(layer):
            total = total + self.token_emb[index](lower[:, index])
        return total

    def hidden(self, x: Tensor, condition: Tensor, t: Tensor, x_mask: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, H) of embeddings x and condition, both (B, T, H), at step t (B,)."""
        return self.diff_estimator(x + self.diff_estimator.get_submodule("cond_mlp")(condition), t, x_mask)
