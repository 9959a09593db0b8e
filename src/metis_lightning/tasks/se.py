"""Fine-tuning for speech enhancement."""

from __future__ import annotations

from metis_lightning.tasks.heard import HeardModule


class SeModule(HeardModule):
    """Speech enhancement: there is no prompt, the source is noisy, reverberant or narrow-band speech."""

    task = "se"
    recipe = "metis_lightning.data.se.SeRecipe"
