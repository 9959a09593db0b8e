"""Fine-tuning for target speaker extraction."""

from __future__ import annotations

from metis_lightning.tasks.heard import HeardModule


class TseModule(HeardModule):
    """Target speaker extraction: the prompt is the wanted speaker, the source that speaker and another at once."""

    task = "tse"
    recipe = "metis_lightning.data.tse.TseRecipe"
