"""Switches on the transformers of a module that change its speed and memory, not its numbers."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer

from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Backbone


class BackboneSwitches(Callback):
    """Recomputed activations and `torch.compile`, for every module that trains a stage 1 or 2.

    Args:
        checkpoint_activations: keep only each layer's input for the backward pass and compute the rest again: less
            memory for about a third more time.
        compile: compile the backbones, for batches of changing length.
    """

    def __init__(self, checkpoint_activations: bool = False, compile: bool = False) -> None:
        self.checkpoint_activations, self.compile = checkpoint_activations, compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the switches.

        Raises:
            UserError: if the module has no backbone.
        """
        backbones = [module for module in pl_module.modules() if isinstance(module, Backbone)]
        if not backbones:
            raise UserError(f"BackboneSwitches: {type(pl_module).__name__} has no transformer of stage 1 or 2")
        for backbone in backbones:
            backbone.checkpoint_activations = self.checkpoint_activations
            if self.compile:
                backbone.compile(dynamic=True)
