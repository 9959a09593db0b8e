"""Fine-tuning for voice conversion."""

from __future__ import annotations

from metis_lightning.tasks.heard import HeardModule


class VcModule(HeardModule):
    """Voice conversion: the prompt is the wanted voice, the source another voice's words."""

    task = "vc"
    recipe = "metis_lightning.data.vc.VcRecipe"
