"""Fine-tuning of stage 1 for a task, with LoRA or in full (Metis, 2502.03128, section 3.3).

Shape letters: B batch, T frames, C condition width, P phones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.condition import GatedAdapter
from metis_lightning.models.lora import lora_disabled
from metis_lightning.models.masking import Masking, PromptRule, draw_masking
from metis_lightning.tasks.base import PartOfBundle, TrainableModule
from metis_lightning.tasks.masked_tokens import frame_mask, masked_scores
from metis_lightning.tasks.schedule import WarmupInverseSqrt
from metis_lightning.tasks.stored_targets import ssl_targets
from metis_lightning.tokens.phonemes import PADDING, stack_phones, text_front_end
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import Extension, extend, load_base, load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder


class FinetuneModule(TrainableModule):
    """Trains what a task adds to a pre-trained base, and LoRA weights or the whole of stage 1.

    A subclass says what the condition of a batch is, if it has any. With a text front end the phones of a batch's
    scripts stand before the tokens. A LoRA checkpoint holds the trained weights alone, and the SHA-256 of the base
    that they belong to.

    Args:
        base: bundle with the pre-trained stage 1, the front end and the semantic codec.
        lora_rank: rank r, with alpha 2r; 0 trains all of stage 1.
        adapter: `gated` (VC, TSE, SE, Omni) or `plain` (L2S); None if there is no frame-level condition (TTS).
        gate_init: where the gate of a gated adapter starts. At the released 0 the gate and the map before it get
            gradients of changing sign at first; a short run learns sooner from a small positive value.
        lora_dropout: dropout before the LoRA maps.
        text: front end of the scripts, `espeak` or `utf8`; None if the task takes no text. The phone embedding is new
            unless the base has one, and is trained with LoRA too.
        prompt_rule: prompts and masks.
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    task: str
    """Name of the task, and of its part in a bundle."""

    answers: tuple[str, ...] = ()
    """Other tasks that the trained weights answer."""

    sees_prompt: bool = True
    """Whether the condition covers the prompt; if not, it is zero there."""

    token_kinds = ("ssl",)

    def __init__(
        self,
        base: str = "nano",
        lora_rank: int = 32,
        adapter: str | None = "gated",
        gate_init: float = 0.0,
        lora_dropout: float = 0.01,
        text: str | None = None,
        prompt_rule: PromptRule = PromptRule(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.text = None if text is None else text_front_end(text)
        folder = bundle_folder(base)
        self.tokenizer = load_tokenizer(folder)
        self.model, self.base_sha256 = load_base(folder)
        self.prompt_rule = prompt_rule
        cond_dim = 0 if adapter is None else self.condition_dim
        self.extension = Extension(adapter, cond_dim, lora_rank, phones=text is not None)
        trained = extend(self.model, self.extension, lora_dropout)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
        if isinstance(self.model.cond_adapter, GatedAdapter):
            torch.nn.init.constant_(self.model.cond_adapter.gate_scale, gate_init)

    @property
    def condition_dim(self) -> int:
        """Width of the condition frames."""
        return self.tokenizer.features.dim

    def condition(self, batch: SpeechBatch) -> Tensor | None:
        """Return the condition frames (B, T, C) of a batch; None if the task has no frame-level condition."""
        return None

    def phones(self, batch: SpeechBatch) -> Tensor | None:
        """Return the phones (B, P) of a batch's scripts, padding at the start; None if the task takes no text."""
        if self.text is None:
            return None
        pairs = zip(batch.scripts, batch.languages, strict=True)
        phones = stack_phones([self.text(pair) if pair[0] else [] for pair in pairs], batch.wave.device)
        # Padding alone keeps the phone embedding in the graph: DDP expects every trained weight in every step.
        return torch.full_like(batch.lengths, PADDING)[:, None] if phones is None else phones

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the task's weights; their names in the state are the published ones."""
        config: dict[str, Any] = {
            "adapter": self.extension.adapter,
            "cond_dim": self.extension.cond_dim,
            "lora_rank": self.extension.lora_rank,
            "base_sha256": self.base_sha256,
        }
        if not self.extension.lora_rank:
            config["stage1"] = plain_config(self.model.config)
        if self.text is not None:
            config["text"] = self.text.name
        if self.answers:
            config["answers"] = list(self.answers)
        return {self.task: PartOfBundle(config, "")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return loss and accuracy on masked tokens, in validation also those of the base without any condition."""
        tokens, frames = ssl_targets(self.tokenizer, batch)
        prompts = None if batch.prompt_lengths is None else self.tokenizer.num_frames(batch.prompt_lengths)
        masking = draw_masking(frames, tokens.shape[1], self.prompt_rule, generator, prompts)
        valid = frame_mask(frames, tokens.shape[1])
        condition, phones = self._conditions(batch, masking)
        logits, targets = self._logits(tokens, masking, valid, condition, phones), tokens[masking.mask]
        scores = masked_scores(logits, targets)
        if self.training:
            return {**scores, "masked_tokens": masking.mask.sum().float()}
        self.by_mask_ratio.update(logits, targets, masking)
        if not self.extension.lora_rank:
            return scores
        with lora_disabled(self.model):
            base = masked_scores(self._logits(tokens, masking, valid), targets)
        return {**scores, **{f"base_{name}": value for name, value in base.items()}}

    def _conditions(self, batch: SpeechBatch, masking: Masking) -> tuple[Tensor | None, Tensor | None]:
        """Return condition frames and phones of a batch, without what its prompts hide or take with them."""
        condition, phones = self.condition(batch), self.phones(batch)
        if condition is not None:
            condition = condition[:, : masking.mask.shape[1]]
            if not self.sees_prompt:
                condition = condition.masked_fill(masking.prompt[..., None], 0)
        if phones is not None and self.prompt_rule.drop_phones:
            phones = phones.masked_fill(~masking.prompt.any(dim=1, keepdim=True), PADDING)
        return condition, phones

    def _logits(
        self,
        tokens: Tensor,
        masking: Masking,
        valid: Tensor,
        condition: Tensor | None = None,
        phones: Tensor | None = None,
    ) -> Tensor:
        """Return logits (M, V) of the masked positions; only they pass through the head."""
        hidden = self.model(tokens, masking.mask, masking.t, valid, condition, phones)
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
        own = None if self.text is None else self.text.name
        if config.get("text") != own:
            raise UserError(f"the checkpoint's text front end is {config.get('text')!r}, this module's is {own!r}")
        super().on_load_checkpoint(checkpoint)
