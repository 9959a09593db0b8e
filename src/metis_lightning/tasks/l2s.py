"""Fine-tuning for lip to speech (Metis, 2502.03128, sections 3.5 and 4.2).

Shape letters: B batch, T frames at 50 Hz, C feature width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metis_lightning.data.recipes.l2s import CROP
from metis_lightning.errors import UserError
from metis_lightning.sampling.request import Request
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.tokens.tokenizer import frozen_arithmetic
from metis_lightning.tokens.visual.encoder import LIP_DIM, VisualEncoder, double_rate, fit_frames
from metis_lightning.types import HOP, SpeechBatch


class L2sModule(FinetuneModule):
    """Lip to speech: lip features of the target, doubled in rate; zeros where the prompt is, which shows no lips.

    Args:
        lip_dim: width of the features.
        encoder: makes the features of mouth pictures, frozen, in every step; None if the data hold features already,
            which is much faster.
        kwargs: those of `FinetuneModule`; the paper trains all of stage 1, `lora_rank` 0.
    """

    task = "l2s"

    def __init__(
        self, lip_dim: int = LIP_DIM, lora_rank: int = 0, encoder: VisualEncoder | None = None, **kwargs: Any
    ) -> None:
        self._lip_dim = lip_dim
        super().__init__(lora_rank=lora_rank, adapter="plain", gate_init=0.0, **kwargs)
        # In a list, so that it becomes no part of the weights.
        self._encoder = [] if encoder is None else [encoder.eval().requires_grad_(False)]

    @property
    def condition_dim(self) -> int:
        """Width of the lip features."""
        return self._lip_dim

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return lip features (B, T, C) at the token rate; a `UserError` if the batch has none, or of another width."""
        if batch.features is None:
            raise UserError(
                "L2S needs lip features: give the data module the recipe metis_lightning.data.recipes.l2s.LipRecipe"
            )
        features = batch.features
        if self._encoder:
            lengths = batch.feature_lengths
            if lengths is None:
                lengths = torch.full((len(features),), features.shape[1], device=features.device)
            features = self._encoded(features, lengths)
        if features.shape[-1] != self._lip_dim:
            raise UserError(f"lip features are {features.shape[-1]} wide, lip_dim is {self._lip_dim}")
        frames = self.tokenizer.num_frames(batch.lengths)
        return fit_frames(double_rate(features, batch.feature_lengths), int(frames.max()))

    def _encoded(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of mouth pictures (B, F, 88 * 88)."""
        if pictures.shape[-1] != CROP**2:
            raise UserError(
                f"the visual encoder takes mouth pictures, {CROP**2} values a frame, not {pictures.shape[-1]}: "
                "use the recipe metis_lightning.data.recipes.l2s.MouthRecipe, or leave model.encoder out"
            )
        with frozen_arithmetic(pictures):
            return self._encoder[0].to(pictures.device)(pictures.float().unflatten(-1, (CROP, CROP)), lengths)

    def request(self, item: SpeechBatch) -> Request:
        """Return what inference would be asked for, with the lip features of the target."""
        spoken = super().request(item)
        prompt = 0 if spoken.prompt is None else len(spoken.prompt) // HOP
        return replace(spoken, features=self.condition(item)[0, prompt:], samples=None)
