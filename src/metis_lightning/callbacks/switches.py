"""Settings that a Trainer has no option for: tokens in an update, recomputed activations, compilation."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Backbone
from metis_lightning.types import TOKEN_RATE

# Largest deviation from the wanted number of tokens, as a share of it.
TOLERANCE = 0.1


class TokensPerUpdate(Callback):
    """Sets `accumulate_grad_batches` so that an update sees a number of token frames, on average and without padding.

    The paper's pre-training has 80,000: 10,000 on each of 8 GPUs. The last update of an epoch may see fewer.

    Args:
        tokens: frames of 20 ms in an update, over all processes.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose, say so, and set. A `UserError` if no number of batches comes within a tenth of the tokens."""
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, SpeechDataModule) or not pl_module.automatic_optimization:
            raise UserError("TokensPerUpdate: needs a SpeechDataModule and a module with one optimizer")
        seconds = datamodule.seconds_of_a_batch()
        batch = seconds * TOKEN_RATE * trainer.world_size
        count = trainer.accumulate_grad_batches = accumulation(self.tokens, batch)
        rank_zero_info(
            f"TokensPerUpdate: {count} batches of {datamodule.batch_seconds:g} s, which hold {seconds:.4g} s of audio, "
            f"on {trainer.world_size} processes: {count * batch:.0f} tokens an update"
        )


def accumulation(tokens: int, batch: float) -> int:
    """Return how many batches, of `batch` tokens over all processes, make `tokens`. A `UserError` if no number does."""
    count = max(1, round(tokens / batch))
    if abs(count * batch - tokens) <= TOLERANCE * tokens:
        return count
    # The data module's seconds that would give exactly the number, in as many batches.
    raise UserError(
        f"TokensPerUpdate: a batch over all processes has {batch:.0f} tokens, and no whole number of them comes near "
        f"{tokens}; multiply data.batch_seconds by {tokens / (count * batch):.3g}, or change the number of devices"
    )


class BackboneSwitches(Callback):
    """Recomputed activations and `torch.compile`, for every module that trains a stage 1 or 2.

    They change speed and memory, not numbers.

    Args:
        checkpoint_activations: keep only each layer's input for the backward pass and compute the rest again: less
            memory for about a third more time.
        compile: compile the backbones, for batches of changing length.
    """

    def __init__(self, checkpoint_activations: bool = False, compile: bool = False) -> None:
        self.checkpoint_activations, self.compile = checkpoint_activations, compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the switches; a `UserError` if the module has no backbone."""
        backbones = [module for module in pl_module.modules() if isinstance(module, Backbone)]
        if not backbones:
            raise UserError(f"BackboneSwitches: {type(pl_module).__name__} has no transformer of stage 1 or 2")
        for backbone in backbones:
            backbone.checkpoint_activations = self.checkpoint_activations
            if self.compile:
                backbone.compile(dynamic=True)
