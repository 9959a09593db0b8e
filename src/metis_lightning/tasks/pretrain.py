"""Pre-training of stage 1: masked SSL tokens without any condition (Metis, 2502.03128, section 3.2).

Shape letters: B batch, T frames, M masked positions of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.models.lora import without_gradient
from metis_lightning.models.masking import PromptRule, draw_masking
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.tasks.base import PartOfBundle, TrainableModule, frame_mask, masked_scores, ssl_targets
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder
from metis_lightning.weights.start import load_start


class PretrainModule(TrainableModule):
    """Trains an unconditional stage 1 on the SSL tokens of clean speech.

    Logs `loss`, `acc`, and in validation those of a unigram predictor on the same masked tokens.

    Args:
        stage1: sizes; `codebook_size` is the semantic codec's.
        tokenizer: bundle whose front end and semantic codec make the tokens.
        prompt_rule: prompts and masks.
        start_from: a bundle, or a checkpoint, whose stage 1 training starts at.
    """

    token_kinds = ("ssl",)

    def __init__(
        self,
        stage1: Stage1Config = Stage1Config(),  # noqa: B008  frozen
        tokenizer: str = "nano",
        prompt_rule: PromptRule = PromptRule(),  # noqa: B008  frozen
        start_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = Stage1(stage1)
        if start_from is not None:
            load_start(self.model, start_from, "stage1")
        for name in without_gradient((name for name, _ in self.model.named_parameters()), phones=False):
            self.model.get_parameter(name).requires_grad_(False)
        self.tokenizer = load_tokenizer(bundle_folder(tokenizer))
        self.prompt_rule = prompt_rule
        self.unigram = UnigramBaseline(stage1.codebook_size)

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return stage 1."""
        return {"stage1": PartOfBundle(plain_config(self.model.config), "model.")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the loss and accuracy on masked tokens."""
        tokens, frames = ssl_targets(self.tokenizer, batch)
        masking = draw_masking(frames, tokens.shape[1], self.prompt_rule, generator)
        valid = frame_mask(frames, tokens.shape[1])
        # First, since a GPU is waited for: after the forward pass it would run dry.
        targets = masking.masked(tokens)
        hidden = self.model.hidden(self.model.embed(tokens, masking.mask), masking.t, valid)
        # Only masked positions pass through the head: it is the widest map of a small model.
        logits = self.model.to_logit(masking.masked(hidden))
        scores = self.score_masked(logits, targets, masking)
        if self.training:
            self.unigram.observe(tokens, valid)
            return scores
        return {**scores, **self.unigram.scores(targets)}


class UnigramBaseline(nn.Module):
    """How often each token occurs in training, in each process its share: what a masked model has to beat."""

    counts: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        # One a token: a token never seen still has a chance.
        self.register_buffer("counts", torch.ones(codebook_size, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, tokens: Tensor, valid: Tensor) -> None:
        """Count training tokens (B, T) where valid (B, T) is True."""
        # Whole batches are added, as a large float32 swallows ones; `bincount` would wait for a GPU.
        batch = torch.zeros_like(self.counts).index_add_(0, tokens.flatten(), valid.flatten().to(self.counts.dtype))
        self.counts += batch

    def scores(self, targets_M: Tensor) -> Mapping[str, Tensor]:
        """Return `unigram_loss` and `unigram_acc`, of predicting every masked token by frequency alone."""
        logits = (self.counts.float() / self.counts.sum()).log()
        scores = masked_scores(logits.expand(len(targets_M), -1), targets_M)
        return {f"unigram_{name}": value for name, value in scores.items()}
