"""Fine-tuning for the tasks whose condition is a source: TSE, SE, VC (Metis, 2502.03128, section 3.5).

Shape letters: B batch, T frames, C condition width.
"""

from __future__ import annotations

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import SpeechBatch


class SourceConditionedModule(FinetuneModule):
    """The condition is the prompt followed by the source, as SSL features."""

    recipe: str
    """The recipe that makes this task's sources, for the message of who forgets it."""

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
