"""Fine-tuning for each task, by its condition: a source, lips, or text (Metis, 2502.03128, section 3.5).

Shape letters: B batch, P phones, T frames at 50 Hz, C condition width.
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
from metis_lightning.weights.build import load_visual_encoder
from metis_lightning.weights.bundle import bundle_folder


class SourceConditionedModule(FinetuneModule):
    """The condition is the prompt followed by the source, as SSL features."""

    # Makes this task's sources; for the message to those who forget it.
    recipe: str

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the features (B, T, C) of prompt and source; a `UserError` if the batch has no source."""
        if batch.source is None:
            raise UserError(f"{type(self).__name__} needs sources: give the data module the recipe {self.recipe}")
        # Recipes put the prompt before the source, so that one pass of the front end is of both.
        return self.tokenizer.ssl_features(batch.source, batch.lengths)[0]


class TseModule(SourceConditionedModule):
    """Target speaker extraction: the prompt is the wanted speaker, the source that speaker and another at once."""

    task = "tse"
    recipe = "metis_lightning.data.recipes.tse.TseRecipe"


class SeModule(SourceConditionedModule):
    """Speech enhancement: there is no prompt, the source is noisy, reverberant or narrow-band speech."""

    task = "se"
    recipe = "metis_lightning.data.recipes.se.SeRecipe"


class VcModule(SourceConditionedModule):
    """Voice conversion: the prompt is the wanted voice, the source another voice's words."""

    task = "vc"
    recipe = "metis_lightning.data.recipes.vc.VcRecipe"


class L2sModule(FinetuneModule):
    """Lip to speech: lip features of the target, doubled in rate; zeros where the prompt is, which shows no lips.

    Args:
        lip_dim: width of the features.
        lora_rank: see `FinetuneModule`; the paper trains all of stage 1.
        encoder: makes the features of mouth pictures, frozen, in every step, or the name of a bundle that has one; None
            if the data hold features already, which is much faster.
    """

    task = "l2s"
    recipe = "metis_lightning.data.recipes.l2s.LipRecipe"

    def __init__(
        self, lip_dim: int = LIP_DIM, lora_rank: int = 0, encoder: VisualEncoder | str | None = None, **kwargs: Any
    ) -> None:
        self.condition_dim = lip_dim
        if isinstance(encoder, str):
            name, encoder = encoder, load_visual_encoder(bundle_folder(encoder))
            if encoder is None:
                raise UserError(f"bundle {name!r}: it has no visual encoder; name one that has, or leave encoder out")
        if encoder is not None and encoder.dim != lip_dim:
            raise UserError(
                f"the visual encoder's features are {encoder.dim} wide, lip_dim is {lip_dim}: set it to that"
            )
        super().__init__(lora_rank=lora_rank, adapter="plain", gate_init=0.0, **kwargs)
        # In a list, so that it becomes no part of the weights.
        self._encoder = [] if encoder is None else [encoder.eval().requires_grad_(False)]

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return lip features (B, T, C) at the token rate; a `UserError` if the batch has none, or of another width."""
        if batch.features is None:
            raise UserError(f"L2S needs lip features: give the data module the recipe {self.recipe}")
        features = batch.features
        if self._encoder:
            lengths = batch.feature_lengths
            if lengths is None:
                lengths = torch.full((len(features),), features.shape[1], device=features.device)
            if features.shape[-1] != CROP**2:
                raise UserError(
                    f"the visual encoder takes mouth pictures, {CROP**2} values a frame, not {features.shape[-1]}: "
                    "use the recipe metis_lightning.data.recipes.l2s.MouthRecipe, or leave model.encoder out"
                )
            with frozen_arithmetic(features):
                pictures = features.float().unflatten(-1, (CROP, CROP))
                features = self._encoder[0].to(features.device)(pictures, lengths)
        if features.shape[-1] != self.condition_dim:
            raise UserError(f"lip features are {features.shape[-1]} wide, lip_dim is {self.condition_dim}")
        frames = self.tokenizer.num_frames(batch.lengths)
        return fit_frames(double_rate(features, batch.feature_lengths), int(frames.max()))

    def request(self, item: SpeechBatch) -> Request:
        """Return what inference would be asked for, with the lip features of the target."""
        spoken = super().request(item)
        prompt = 0 if spoken.prompt is None else len(spoken.prompt) // HOP
        return replace(spoken, features=self.condition(item)[0, prompt:], samples=None)


class TtsModule(FinetuneModule):
    """Text to speech: the phones of prompt and target stand before the tokens.

    With LoRA the phone embedding and its MLP are trained as well, 20.5M parameters at the published sizes.

    Args:
        text: front end; `espeak` needs the extra `text`, `utf8` (bytes instead of phones) needs nothing.
    """

    task = "tts"
    recipe = "metis_lightning.data.recipes.recipe.TtsRecipe"

    def __init__(self, text: str = "espeak", **kwargs: Any) -> None:
        super().__init__(adapter=None, gate_init=0.0, text=text, **kwargs)

    def phones(self, batch: SpeechBatch) -> Tensor | None:
        """Return the phones (B, P) of a batch in which every row has a script; a `UserError` if one has none."""
        if not batch.scripts or not all(batch.scripts):
            raise UserError(f"TTS needs scripts: give the data module the recipe {self.recipe}")
        return super().phones(batch)


class OmniModule(FinetuneModule):
    """Metis-Omni: phones where a row has a script, and features of the source where it has one.

    Rows of all tasks meet in a batch; to a row without a source no condition is added. As in the paper, phones and a
    source together (text-guided TSE) are not trained, and all of stage 1 is, `lora_rank` 0.

    Args:
        text: front end of the scripts.
    """

    task = "omni"

    def __init__(self, text: str = "espeak", lora_rank: int = 0, **kwargs: Any) -> None:
        super().__init__(lora_rank=lora_rank, adapter="gated", text=text, **kwargs)

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the features (B, T, C) of the sources; those of rows without one have no meaning."""
        if batch.source is not None:
            return self.tokenizer.ssl_features(batch.source, batch.lengths)[0]
        # No row takes them, but the adapter is in the graph: DDP expects every trained weight in every step.
        frames = int(self.tokenizer.num_frames(batch.lengths).max())
        return batch.wave.new_zeros(len(batch.ids), frames, self.condition_dim)

    def has_source(self, batch: SpeechBatch) -> Tensor | None:
        """Return which rows (B,) have a source; None if all do."""
        return torch.zeros_like(batch.lengths, dtype=torch.bool) if batch.source is None else batch.has_source
