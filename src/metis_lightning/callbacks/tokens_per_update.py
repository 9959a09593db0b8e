"""A fixed number of tokens in each update, whatever the number of devices."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.errors import UserError
from metis_lightning.types import TOKEN_RATE

TOLERANCE = 0.1
"""Largest deviation from the number asked for, as a share of it."""


class TokensPerUpdate(Callback):
    """Sets `accumulate_grad_batches` so that an update sees a number of token frames, on average and without padding.

    The paper's pre-training has 80,000: 10,000 on each of 8 GPUs. The last update of an epoch may see fewer.

    Args:
        tokens: frames of 20 ms in an update, over all processes.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose, say so, and set.

        Raises:
            UserError: if no whole number of batches comes within a tenth of the number asked for.
        """
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, SpeechDataModule) or not pl_module.automatic_optimization:
            raise UserError("TokensPerUpdate: needs a SpeechDataModule and a module with one optimizer")
        seconds = datamodule.seconds_of_a_batch()
        batch = seconds * TOKEN_RATE * trainer.world_size
        trainer.accumulate_grad_batches = accumulation(self.tokens, batch)
        count = trainer.accumulate_grad_batches
        rank_zero_info(
            f"TokensPerUpdate: {count} batches of {datamodule.batch_seconds:g} s, which hold {seconds:.4g} s of audio, "
            f"on {trainer.world_size} processes: {count * batch:.0f} tokens an update"
        )


def accumulation(tokens: int, batch: float) -> int:
    """Return how many batches, of `batch` tokens over all processes, make an update of `tokens` tokens.

    Raises:
        UserError: if no whole number of batches does, within `TOLERANCE`.

    >>> accumulation(80_000, 10_000)
    8
    """
    count = max(1, round(tokens / batch))
    if abs(count * batch - tokens) <= TOLERANCE * tokens:
        return count
    # The data module's seconds that would give exactly the number, in as many batches.
    raise UserError(
        f"TokensPerUpdate: a batch over all processes has {batch:.0f} tokens, and no whole number of them comes near "
        f"{tokens}; multiply data.batch_seconds by {tokens / (count * batch):.3g}, or change the number of devices"
    )
