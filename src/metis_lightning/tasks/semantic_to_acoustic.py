"""Training of stage 2, either of its two models (MaskGCT, 2409.00750, section 3.2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.models.masking import PromptRule, draw_masking
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.tasks.base import PartOfBundle, TrainableModule
from metis_lightning.tasks.masked_tokens import frame_mask, masked_scores
from metis_lightning.tasks.optimization import WarmupInverseSqrt
from metis_lightning.tasks.targets import TokenCache, stored_targets
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder

STAGE2_PROMPTS = PromptRule(longest=0.5)


class SemanticToAcousticModule(TrainableModule):
    """Trains one model of stage 2; in each step one quantizer layer is masked and predicted.

    Args:
        part: name in the bundle, `s2a_1layer` or `s2a_full`.
        stage2: sizes, and the first layer that the model predicts.
        tokenizer: bundle whose codecs make the tokens.
        prompt_rule: prompts and masks.
        cache_tokens: keep every utterance's tokens in memory. For small corpora, and recipes that do not crop. None
            keeps them where training is on the CPU; a GPU encodes a batch as one, sooner than it would ask for rows.
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    token_kinds = ("ssl", "acoustic")

    def __init__(
        self,
        part: str = "s2a_full",
        stage2: SemanticToAcousticConfig = SemanticToAcousticConfig(),  # noqa: B008  frozen
        tokenizer: str = "nano",
        prompt_rule: PromptRule = STAGE2_PROMPTS,
        cache_tokens: bool | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.part = part
        self.model = SemanticToAcoustic(stage2)
        self.tokenizer = load_tokenizer(bundle_folder(tokenizer))
        self.cache = TokenCache(self.tokenizer, cache_tokens)
        self.prompt_rule = prompt_rule
        # Of the layers' output maps, a step trains one.
        self.has_unused_parameters = stage2.num_quantizers > 1

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the model under its name in a bundle."""
        return {self.part: PartOfBundle(plain_config(self.model.config), "model.")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the loss and accuracy on the masked tokens of a drawn layer."""
        ssl, acoustic, frames = stored_targets(self.tokenizer, batch) or self.cache.tokens(batch)
        acoustic = acoustic[..., : self.model.config.num_quantizers]
        layer = self._draw_layer(generator)
        masking = draw_masking(frames, ssl.shape[1], self.prompt_rule, generator)
        # First, since a GPU is waited for: after the forward pass it would run dry.
        targets = masking.masked(acoustic[..., layer])
        x = self.model.embed(acoustic, masking.mask, layer, masking.prompt)
        valid = frame_mask(frames, ssl.shape[1])
        hidden = self.model.hidden(x, self.model.condition(ssl, layer), masking.t, valid)
        logits = self.model.to_logits[layer](masking.masked(hidden))
        scores = {**masked_scores(logits, targets), "masked_tokens": masking.mask.sum().float()}
        if self.training:
            return {**scores, f"loss_layer{layer}": scores["loss"]}
        self.by_mask_ratio.update(logits, targets, masking)
        return scores

    def _draw_layer(self, generator: torch.Generator | None) -> int:
        uniform = torch.rand((), generator=generator, device=None if generator is None else generator.device)
        edges = self.model.config.layer_weights().cumsum(0)[:-1]
        return int(torch.searchsorted(edges, uniform.cpu(), right=True))


class FirstLayerModule(SemanticToAcousticModule):
    """The same for the model of the first quantizer layer: a class of its own, to which a scale says its own sizes."""
