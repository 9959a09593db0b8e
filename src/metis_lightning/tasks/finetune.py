"""Fine-tuning of stage 1 for a task, with LoRA or in full (Metis, 2502.03128, section 3.3).

Shape letters: B batch, T frames, C condition width, P phones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.errors import UserError
from metis_lightning.models.lora import Extension, extend, lora_disabled, without_gradient
from metis_lightning.models.masking import Masking, PromptRule, draw_masking
from metis_lightning.models.stage1 import GatedAdapter, Stage1
from metis_lightning.sampling.request import SHORTEST, Request
from metis_lightning.task_table import task_named
from metis_lightning.tasks.base import PartOfBundle, TrainableModule, frame_mask, masked_scores, ssl_targets
from metis_lightning.tokens.phonemes import PADDING, script_phones, text_front_end
from metis_lightning.types import HOP, SpeechBatch
from metis_lightning.weights.build import load_base, load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder
from metis_lightning.weights.start import start_task


class FinetuneModule(TrainableModule):
    """Trains what a task adds to a pre-trained base, and LoRA weights or the whole of stage 1.

    A subclass says what the condition of a batch is, if it has any; phones of a text front end stand before the tokens.

    Args:
        base: bundle with the pre-trained stage 1, the front end and the semantic codec.
        lora_rank: rank r, with alpha 2r; 0 trains all of stage 1, or with `freeze_base` the adapter and phones alone.
        adapter: `gated` (VC, TSE, SE, Omni) or `plain` (L2S); None if there is no frame-level condition (TTS).
        gate_init: where the gate of a gated adapter starts: at the released 0 its gradients change sign at first, and a
            short run learns sooner from a small positive value.
        lora_dropout: dropout before the LoRA maps.
        text: front end of the scripts, `espeak` or `utf8`; None if the task takes no text. The phone embedding is new
            unless the base has one, and is trained with LoRA too.
        spread_phones: whether phones are spread over the frames, as a small model needs it, in place of standing
            before them, as published.
        prompt_rule: prompts and masks.
        masks_per_row: how often each row of a batch is trained on, each time with a mask of its own. The front end,
            most of the cost of a small model's step, runs once for all (data echoing, 1907.05550).
        start_from: a bundle, or a checkpoint, where training starts: at its weights of the task, or of a model that
            answers it (Omni's). LoRA that they lack, or have of another rank, starts as without.
        from_scratch: take the base's sizes only and train stage 1 from random weights (the paper's "w.o. pre-train").
    """

    # Name of the task, and of its part in a bundle.
    task: str
    # Width of the condition frames; 0 takes that of the base's SSL features.
    condition_dim: int = 0
    token_kinds = ("ssl",)

    def __init__(
        self,
        base: str = "nano",
        lora_rank: int = 32,
        adapter: str | None = "gated",
        gate_init: float = 0.0,
        lora_dropout: float = 0.01,
        text: str | None = None,
        spread_phones: bool = False,
        prompt_rule: PromptRule = PromptRule(),  # noqa: B008  frozen
        masks_per_row: int = 1,
        freeze_base: bool = False,
        start_from: str | None = None,
        from_scratch: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text = None if text is None else text_front_end(text)
        self.base, folder = base, bundle_folder(base)
        self.tokenizer = load_tokenizer(folder)
        self.model, self.base_sha256 = load_base(folder)
        if from_scratch:
            if lora_rank:
                raise UserError(f"from_scratch trains all of stage 1: lora_rank must be 0, got {lora_rank}")
            self.model = Stage1(self.model.config)
        if spread_phones and text is None:
            raise UserError("spread_phones spreads phones, and this module reads no text: give model.text, too")
        if masks_per_row < 1:
            raise UserError(f"masks_per_row must be at least 1, got {masks_per_row}")
        self.prompt_rule, self.masks_per_row = prompt_rule, masks_per_row
        self.condition_dim = self.condition_dim or self.tokenizer.features.dim
        width, full = self.condition_dim if adapter else 0, not (lora_rank or freeze_base)
        self.extension = Extension(adapter, width, lora_rank, text is not None, spread_phones, full)
        self._own = extend(self.model, self.extension, lora_dropout)
        trained = self._own - without_gradient(self._own, phones=text is not None)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
        if isinstance(self.model.cond_adapter, GatedAdapter):
            torch.nn.init.constant_(self.model.cond_adapter.gate_scale, gate_init)
        if start_from is not None:
            start_task(self.model, start_from, self.task, self._own)

    def setup(self, stage: str) -> None:
        """Have a data module make the phones with its batches, in its workers, where no step waits for them."""
        super().setup(stage)
        if self.text is not None and isinstance(data := getattr(self.trainer, "datamodule", None), SpeechDataModule):
            data.use_phones(partial(script_phones, self.text))

    def condition(self, batch: SpeechBatch) -> Tensor | None:
        """Return the condition frames (B, T, C) of a batch; None if the task has no frame-level condition."""
        return None

    def has_source(self, batch: SpeechBatch) -> Tensor | None:
        """Return the rows (B,) that the condition belongs to; None if it belongs to all."""
        return None

    def phones(self, batch: SpeechBatch) -> Tensor | None:
        """Return the phones (B, P) of a batch's scripts, padding at the start; None if the task takes no text."""
        if self.text is None:
            return None
        phones = batch.phones
        if phones is None and (phones := script_phones(self.text, batch.scripts, batch.languages)) is not None:
            phones = phones.to(batch.wave.device)
        # Padding alone keeps the phone embedding in the graph: DDP expects every trained weight in every step.
        return torch.full_like(batch.lengths, PADDING)[:, None] if phones is None else phones

    def request(self, item: SpeechBatch) -> Request:
        """Return what inference would be asked for, to say the target of a batch of one row."""
        end = int(item.lengths)
        # One that the row leaves to chance is the longest that is drawn; one too short belongs to the target.
        prompt = -1 if item.prompt_lengths is None else int(item.prompt_lengths)
        start = int(self.prompt_rule.longest * end) // HOP * HOP if prompt < 0 else prompt
        start = start if start >= SHORTEST * HOP else 0
        has_source = item.source is not None and (item.has_source is None or bool(item.has_source))
        source = item.source[0, start:end] if item.source is not None and has_source else None
        phones = self.phones(item)
        return Request(
            self.task,
            prompt=item.wave[0, :start] if start else None,
            source=source,
            phones=() if phones is None else tuple(phones[phones != PADDING].tolist()),
            samples=end - start if source is None else None,
        )

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the task's weights; their names in the state are the published ones."""
        config = {name: getattr(self.extension, name) for name in ("adapter", "cond_dim", "lora_rank")}
        config |= {"base": self.base, "base_sha256": self.base_sha256}
        if self.extension.full:
            config["stage1"] = plain_config(self.model.config)
        if self.text is not None:
            config["text"] = self.text.name
        if self.extension.spread_phones:
            config["spread_phones"] = True
        if covers := task_named(self.task).covers:
            config["answers"] = list(covers)
        return {self.task: PartOfBundle(config, "")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return loss and accuracy on masked tokens, in validation also those of the base without any condition."""
        tokens, frames = ssl_targets(self.tokenizer, batch)
        prompts = None if batch.prompt_lengths is None else self.tokenizer.num_frames(batch.prompt_lengths)
        times = self.masks_per_row if self.training else 1
        tokens, frames = tokens.repeat_interleave(times, dim=0), frames.repeat_interleave(times)
        prompts = None if prompts is None else prompts.repeat_interleave(times)
        masking = draw_masking(frames, tokens.shape[1], self.prompt_rule, generator, prompts)
        valid = frame_mask(frames, tokens.shape[1])
        # First, since a GPU is waited for: after the forward pass it would run dry.
        targets = masking.masked(tokens)
        condition, phones, has_source = self._conditions(batch, masking)
        x = self.model.embed(tokens, masking.mask, condition, has_source)
        hidden = self.model.hidden(x, masking.t, valid, phones)
        # Only masked positions pass through the head.
        scores = self.score_masked(self.model.to_logit(masking.masked(hidden)), targets, masking)
        if self.training or self.extension.full:
            return scores
        with lora_disabled(self.model):
            hidden = self.model.hidden(self.model.embed(tokens, masking.mask), masking.t, valid)
            base = masked_scores(self.model.to_logit(masking.masked(hidden)), targets)
        return {**scores, **{f"base_{name}": value for name, value in base.items()}}

    def _conditions(self, batch: SpeechBatch, masking: Masking) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return condition frames, phones, and which rows have a source, for every row of `masking`.

        What its prompts hide or take with them is left out.
        """
        times = len(masking.t) // len(batch.ids)
        values = (self.condition(batch), self.phones(batch), self.has_source(batch))
        condition, phones, has_source = (v if v is None else v.repeat_interleave(times, dim=0) for v in values)
        if condition is not None:
            condition = condition[:, : masking.mask.shape[1]]
            # As in sampling: a prompt has sound, but no features beside it.
            if task_named(self.task).condition == "features":
                condition = condition.masked_fill(masking.prompt[..., None], 0)
        if phones is not None and self.prompt_rule.drop_phones:
            phones = phones.masked_fill(~masking.prompt.any(dim=1, keepdim=True), PADDING)
        return condition, phones, has_source

    def checkpoint_keys(self) -> set[str]:
        """Return the names of the task's weights, which are what a checkpoint holds."""
        return {f"model.{name}" for name in self._own}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another task or base, or one whose weights are not this module's."""
        config = checkpoint.get("bundle_parts", {}).get(self.task, {}).get("config")
        if config is None:
            raise UserError(f"the checkpoint holds no {self.task!r} weights; it was made by another module")
        if config["base_sha256"] != self.base_sha256:
            raise UserError(
                f"the checkpoint belongs to the base {config.get('base', '?')!r} with SHA-256 {config['base_sha256']}, "
                f"the base {self.base!r} has {self.base_sha256}; set model.base"
            )
        own = self.parts()[self.task].config
        for key in ("text", "spread_phones"):
            if config.get(key) != own.get(key):
                raise UserError(f"the checkpoint has {key} {config.get(key)!r}, this module {own.get(key)!r}")
        super().on_load_checkpoint(checkpoint)
