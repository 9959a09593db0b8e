"""Stage 1: the masked generative transformer over SSL tokens (Metis, 2502.03128, section 3).

Shape letters: B batch, T frames, P phones, C condition width, H hidden width, V codebook size.
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metis_lightning.models.backbone import Backbone, condition_mlp, initialise

# Rows of the published phone embedding.
PHONE_VOCABULARY = 1024
# Prefixes of the weights that phones pass through and nothing else does.
PHONE_LAYERS = ("phone_emb.", "diff_estimator.cond_mlp.")


@dataclass(frozen=True)
class Stage1Config:
    """Sizes of the published base model; `use_phone_cond` adds the phone embedding and its MLP (TTS, Omni).

    Its phones stand before the tokens. With `spread_phones` they are added to the frames instead, spread evenly over
    prompt and target: about where each is spoken, so that a small model need not learn first which belongs where.
    """

    hidden_size: int = 1536
    num_layers: int = 16
    num_heads: int = 16
    codebook_size: int = 8192
    use_phone_cond: bool = False
    spread_phones: bool = False


class GatedAdapter(nn.Module):
    """Brings a frame-level condition to the embeddings' width, times a gate that starts at 0 (VC, TSE, SE, Omni)."""

    def __init__(self, cond_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.cond_dim = cond_dim
        # As the backbone's maps and as in the released code.
        self.in_linear = initialise(nn.Linear(cond_dim, 4 * hidden_size))
        self.out_linear = initialise(nn.Linear(4 * hidden_size, hidden_size))
        self.gate_scale = nn.Parameter(torch.zeros(1))

    def forward(self, condition: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, H)."""
        return self.gate_scale * self.out_linear(F.silu(self.in_linear(condition)))


class PlainAdapter(nn.Sequential):
    """The same MLP without a gate (L2S); its maps start as torch's do, in the released code too."""

    def __init__(self, cond_dim: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(cond_dim, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size))
        self.cond_dim = cond_dim


class Stage1(nn.Module):
    """Predicts masked SSL tokens from the others, from phones, and from a condition through `cond_adapter`, if any."""

    def __init__(self, config: Stage1Config, cond_adapter: GatedAdapter | PlainAdapter | None = None) -> None:
        super().__init__()
        self.config = config
        self.mask_emb = nn.Embedding(1, config.hidden_size)
        self.cond_emb = nn.Embedding(config.codebook_size, config.hidden_size)
        self.to_logit = nn.Linear(config.hidden_size, config.codebook_size)
        self.phone_emb: nn.Embedding | None = None
        if config.use_phone_cond:
            self.phone_emb = initialise(nn.Embedding(PHONE_VOCABULARY, config.hidden_size))
        self.cond_adapter = cond_adapter
        self.diff_estimator = Backbone(
            config.hidden_size, config.num_layers, config.num_heads, cond_mlp=config.use_phone_cond
        )
        for layer in (self.mask_emb, self.cond_emb, self.to_logit):
            initialise(layer)

    def add_phones(self, spread: bool = False) -> None:
        """Give a model that was built without them a phone embedding and its MLP, freshly initialised."""
        self.config = replace(self.config, use_phone_cond=True, spread_phones=spread)
        if self.phone_emb is None:
            self.phone_emb = initialise(nn.Embedding(PHONE_VOCABULARY, self.config.hidden_size))
            self.diff_estimator.cond_mlp = condition_mlp(self.config.hidden_size)

    def embed(
        self, tokens: Tensor, mask: Tensor, condition: Tensor | None = None, has_source: Tensor | None = None
    ) -> Tensor:
        """Return embeddings (B, T, H) of tokens (B, T), those where mask (B, T) is True replaced by the mask's.

        The adapted condition (B, T, C) is added to the rows where `has_source` (B,) is True, to all if it is None.
        """
        embeddings = torch.where(mask[..., None], self.mask_emb.weight, self.cond_emb(tokens))
        if condition is None:
            return embeddings
        # Not by zeros in the condition: an adapter makes something of zeros, too.
        adapted = self.adapted(condition)
        return embeddings + (adapted if has_source is None else adapted * has_source[:, None, None])

    def adapted(self, condition: Tensor) -> Tensor:
        """Return embeddings (…, T, H) of condition frames (…, T, C)."""
        if self.cond_adapter is None:
            raise ValueError("this stage 1 has no cond_adapter and takes no condition")
        return self.cond_adapter(condition)

    def embed_phones(self, phones: Tensor) -> Tensor:
        """Return embeddings (…, P, H) of phones (…, P), as they stand before the tokens'; padding phones are -1."""
        if self.phone_emb is None or self.diff_estimator.cond_mlp is None:
            raise ValueError("this stage 1 was built without use_phone_cond and takes no phones")
        return self.diff_estimator.cond_mlp(self.phone_emb(phones.clamp(min=0)))

    def spread_phones(self, phones: Tensor, frames: Tensor, length: int) -> Tensor:
        """Return embeddings (B, T, H) of phones (B, P), padded at the start with -1, spread over `frames` (B,) of T.

        They are zeros in rows without phones; what stands after a row's frames has no meaning.
        """
        counts = (phones >= 0).sum(dim=1)
        position = torch.arange(length, device=phones.device)
        # The middle of each frame, so that every phone has its share of them.
        place = (2 * position + 1) * counts[:, None] // (2 * frames[:, None].clamp(min=1))
        spread = phones.gather(1, (phones.shape[1] - counts[:, None] + place).clamp(max=phones.shape[1] - 1))
        return self.embed_phones(spread) * (counts > 0)[:, None, None]

    def hidden(self, x: Tensor, t: Tensor, x_mask: Tensor | None, phones: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, H) of embeddings x (B, T, H) at step t (B,), with their phones (B, P).

        Padding phones, at the start, are -1. `x_mask` (B, T) is nonzero where a frame is not padding; None if nothing
        is.
        """
        if phones is None:
            return self.diff_estimator(x, t, x_mask)
        frames = x.new_ones(x.shape[:2]) if x_mask is None else x_mask
        if self.config.spread_phones:
            spread = self.spread_phones(phones, (frames != 0).sum(dim=1), x.shape[1])
            return self.diff_estimator(x + spread, t, x_mask)
        prefix = self.embed_phones(phones)
        both = torch.cat([(phones >= 0).to(frames.dtype), frames], dim=1)
        return self.diff_estimator(torch.cat([prefix, x], dim=1), t, both)[:, phones.shape[1] :]

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        t: Tensor,
        x_mask: Tensor | None = None,
        condition: Tensor | None = None,
        phones: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states (B, T, H); `to_logit` of them gives logits (B, T, V)."""
        return self.hidden(self.embed(tokens, mask, condition), t, x_mask, phones)
