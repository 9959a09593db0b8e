"""Fine-tuning of stage 1 for a task, with LoRA or in full (Metis, 2502.03128, section 3.3).

Shape letters: B batch, T frames, C condition width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.condition import GatedAdapter
from metis_lightning.models.lora import add_lora, lora_disabled
from metis_lightning.models.masking import Masking, PromptRule, draw_masking
from metis_lightning.tasks.base import PartOfBundle, TrainableModule
from metis_lightning.tasks.masked_tokens import frame_mask, masked_scores
from metis_lightning.tasks.schedule import WarmupInverseSqrt
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import ADAPTERS, load_base, load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder


class FinetuneModule(TrainableModule):
    """Trains an adapter, and LoRA weights or the whole of stage 1, on a pre-trained base.

    A subclass says what the condition of a batch is. A LoRA checkpoint holds the trained weights alone, and the SHA-256
    of the base that they belong to.

    Args:
        base: bundle with the pre-trained stage 1, the front end and the semantic codec.
        lora_rank: rank r, with alpha 2r; 0 trains all of stage 1.
        adapter: `gated` (VC, TSE, SE, Omni) or `plain` (L2S).
        gate_init: where the gate of a gated adapter starts. At the released 0 the gate and the map before it get
            gradients of changing sign at first; a short run learns sooner from a small positive value.
        lora_dropout: dropout before the LoRA maps.
        prompt_rule: prompts and masks.
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    task: str
    """Name of the task, and of its part in a bundle."""

    def __init__(
        self,
        base: str = "nano",
        lora_rank: int = 32,
        adapter: str = "gated",
        gate_init: float = 0.0,
        lora_dropout: float = 0.01,
        prompt_rule: PromptRule = PromptRule(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        if adapter not in ADAPTERS:
            raise UserError(f"adapter {adapter!r}: choose one of {', '.join(ADAPTERS)}")
        folder = bundle_folder(base)
        self.tokenizer = load_tokenizer(folder)
        self.model, self.base_sha256 = load_base(folder)
        self.lora_rank, self.adapter, self.prompt_rule = lora_rank, adapter, prompt_rule
        if lora_rank:
            self.model.requires_grad_(False)
        self.model.cond_adapter = ADAPTERS[adapter](self.condition_dim, self.model.config.hidden_size)
        if isinstance(self.model.cond_adapter, GatedAdapter):
            torch.nn.init.constant_(self.model.cond_adapter.gate_scale, gate_init)
        if lora_rank:
            add_lora(self.model, lora_rank, dropout=lora_dropout)
            # peft freezes everything else.
            self.model.cond_adapter.requires_grad_(True)

    @property
    def condition_dim(self) -> int:
        """Width of the condition frames."""
        return self.tokenizer.features.dim

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the condition frames (B, T, C) of a batch."""
        raise NotImplementedError

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the task's weights; their names in the state are the published ones."""
        config: dict[str, Any] = {
            "adapter": self.adapter,
            "cond_dim": self.condition_dim,
            "lora_rank": self.lora_rank,
            "base_sha256": self.base_sha256,
        }
        if not self.lora_rank:
            config["stage1"] = plain_config(self.model.config)
        return {self.task: PartOfBundle(config, "")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return loss and accuracy on masked tokens, in validation also those of the base without the condition."""
        tokens, frames = self.tokenizer.ssl_tokens(batch.wave, batch.lengths)
        prompts = None if batch.prompt_lengths is None else self.tokenizer.num_frames(batch.prompt_lengths)
        masking = draw_masking(frames, tokens.shape[1], self.prompt_rule, generator, prompts)
        valid = frame_mask(frames, tokens.shape[1])
        condition = self.condition(batch)[:, : tokens.shape[1]]
        logits, targets = self._logits(tokens, masking, valid, condition), tokens[masking.mask]
        scores = masked_scores(logits, targets)
        if self.training:
            return {**scores, "masked_tokens": masking.mask.sum().float()}
        self.by_mask_ratio.update(logits, targets, masking)
        if not self.lora_rank:
            return scores
        with lora_disabled(self.model):
            base = masked_scores(self._logits(tokens, masking, valid, None), targets)
        return {**scores, **{f"base_{name}": value for name, value in base.items()}}

    def _logits(self, tokens: Tensor, masking: Masking, valid: Tensor, condition: Tensor | None) -> Tensor:
        """Return logits (M, V) of the masked positions; only they pass through the head."""
        hidden = self.model(tokens, masking.mask, masking.t, valid, condition)
        return self.model.to_logit(hidden[masking.mask])

    def kept(self) -> set[str]:
        """Return the names of the trained weights, which are what a checkpoint holds."""
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another task or base, or one whose weights are not this module's.

        Raises:
            UserError: saying what differs.
        """
        config = checkpoint.get("bundle_parts", {}).get(self.task, {}).get("config")
        if config is None:
            raise UserError(f"the checkpoint holds no {self.task!r} weights; it was made by another module")
        if config["base_sha256"] != self.base_sha256:
            raise UserError(
                f"the checkpoint belongs to the base with SHA-256 {config['base_sha256']}, "
                f"this base has {self.base_sha256}"
            )
        super().on_load_checkpoint(checkpoint)
