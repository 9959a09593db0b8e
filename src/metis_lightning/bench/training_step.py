"""A training step of stage 1 on random tokens, by how its batch is made and what is trained.

Shape letters: B rows, T frames of the longest, N frames of all, M masked frames, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.models.backbone import Layout, rotary_embedding
from metis_lightning.models.lora import Extension, extend
from metis_lightning.models.masking import PromptRule, draw_masking
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.tasks.base import frame_mask
from metis_lightning.types import HOP
from metis_lightning.weights.build import load_tokenizer
from metis_lightning.weights.bundle import bundle_folder


@dataclass(frozen=True)
class Variant:
    """How batches are made, and what is trained of stage 1 in which way."""

    name: str
    batches: Literal["padded", "bucketed", "packed"] = "bucketed"
    lora_rank: int = 0
    checkpointed: bool = False
    compiled: bool = False
    from_audio: bool = False


@dataclass(frozen=True)
class TokenRows:
    """Rows of random tokens (B, T) with a mask, steps t (B,), places of masked frames (M,) among B · T, and lengths."""

    tokens: Tensor
    mask: Tensor
    t: Tensor
    places: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def drawn(cls, lengths: Sequence[int], codebook_size: int, seed: int, device: torch.device) -> TokenRows:
        """Draw rows, each with the tokens and mask that it would have in any other batch."""
        longest, rows = max(lengths), []
        for length in lengths:
            generator = derived_generator("bench", seed, length)
            tokens = torch.randint(codebook_size, (1, length), generator=generator)
            masking = draw_masking(torch.tensor([length]), length, PromptRule(), generator)
            rows.append((F.pad(tokens, (0, longest - length)), F.pad(masking.mask, (0, longest - length)), masking.t))
        tokens, mask, t = (torch.cat(parts) for parts in zip(*rows, strict=True))
        places = mask.flatten().nonzero()[:, 0]
        return cls(tokens.to(device), mask.to(device), t.to(device), places.to(device), tuple(lengths))


def masked_loss(model: Stage1, rows: TokenRows, is_packed: bool = False) -> Tensor:
    """Return the mean cross-entropy on the masked tokens, with rows padded or one after another."""
    targets = rows.tokens.flatten()[rows.places]
    repeats = torch.tensor(rows.lengths, device=rows.tokens.device)
    valid = frame_mask(repeats, rows.tokens.shape[1])
    if not is_packed:
        hidden = model(rows.tokens, rows.mask, rows.t, valid).flatten(0, 1)
        return F.cross_entropy(model.to_logit(hidden[rows.places]), targets)
    backbone = model.diff_estimator
    x = model.embed(rows.tokens[valid][None], rows.mask[valid][None])
    cos, sin = rotary_embedding(max(rows.lengths), backbone.head_dim, x)
    cos, sin = (torch.cat([table[:length] for length in rows.lengths]) for table in (cos, sin))
    scales = [s.repeat_interleave(repeats, dim=0)[None] for s in backbone.norm_scales(rows.t, x.dtype).unbind(dim=1)]
    hidden = backbone.scaled(x, scales, Layout((cos, sin), lengths=rows.lengths))[0]
    return F.cross_entropy(model.to_logit(hidden[rows.mask[valid]]), targets)


def stage1_of(config: Stage1Config, variant: Variant, device: torch.device) -> Stage1:
    """Return a new stage 1 on a device, with its LoRA if it has one, of which the variant's weights take gradients."""
    with device:
        model = Stage1(config)
        trained = frozenset(name for name, _ in model.named_parameters())
        if variant.lora_rank:
            trained = extend(model, Extension(None, 0, variant.lora_rank))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    model.diff_estimator.checkpoint_activations = variant.checkpointed
    return model.train()


class TrainingStep:
    """A step of a variant, with AdamW; the time of its parts adds up in `seconds`."""

    def __init__(self, config: Stage1Config, variant: Variant, device: torch.device) -> None:
        self.variant, self.device, self.seconds = variant, device, dict[str, float]()
        self.model = stage1_of(config, variant, device)
        if variant.compiled:
            self.model.diff_estimator.compile(dynamic=True)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.tokenizer = load_tokenizer(bundle_folder("nano")).to(device) if variant.from_audio else None

    def __call__(self, rows: TokenRows) -> Tensor:
        """Take a step and return its loss."""
        with self._timed("front end"):
            if self.tokenizer is not None:
                lengths = torch.tensor(rows.lengths, device=self.device) * HOP
                self.tokenizer.ssl_tokens(torch.zeros(len(lengths), int(lengths.max()), device=self.device), lengths)
        # A CPU is slow in bfloat16.
        mixed = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with self._timed("forward"), mixed:
            loss = masked_loss(self.model, rows, self.variant.batches == "packed")
        with self._timed("backward"):
            loss.backward()
        with self._timed("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - start
