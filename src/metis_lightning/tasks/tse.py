"""Fine-tuning for target speaker extraction (Metis, 2502.03128, sections 3.5 and 4.2).

Shape letters: B batch, T frames, C condition width.
"""

from __future__ import annotations

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import SpeechBatch


class TseModule(FinetuneModule):
    """Target speaker extraction: the condition is the enrollment followed by the mixture, as SSL features."""

    task = "tse"

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the features (B, T, C) of what is heard."""
        if batch.mixture is None:
            raise UserError("TSE needs mixtures: give the data module the recipe metis_lightning.data.tse.TseRecipe")
        return self.tokenizer.ssl_features(batch.mixture, batch.lengths)[0]
