"""What a module makes of a few fixed validation items, in TensorBoard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from metis_lightning.callbacks.tensorboard_media import log_speech
from metis_lightning.errors import UserError
from metis_lightning.types import SpeechBatch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

T = TypeVar("T")


class ValidationSamples(Callback, ABC):
    """Logs what a module makes of the first items of a validation, with the weights that validation sees.

    A subclass says what is shown, and how it is logged if it is no audio. What does not change is logged once.

    Args:
        count: items.
        every_n_validations: how often.
    """

    def __init__(self, count: int = 3, every_n_validations: int = 1) -> None:
        self.count, self.every = count, every_n_validations
        self._items: list[SpeechBatch] = []
        self._validations = 0

    @abstractmethod
    def given(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return by name what is fixed of an item, a batch of one row on the module's device."""

    @abstractmethod
    def made(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return by name what the module makes of an item."""

    def write(self, writer: SummaryWriter, tag: str, value: Tensor, step: int) -> None:
        """Write a waveform (S,)."""
        log_speech(writer, tag, value, step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: SpeechBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first items of the first validation."""
        if not self._validations:
            wanted = range(min(self.count - len(self._items), len(batch.ids)))
            self._items += [one_row(batch, row).to("cpu") for row in wanted]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make and log, on the first process; callbacks that change the weights for a validation come back later."""
        if trainer.sanity_checking:
            self._items = []
            return
        self._validations += 1
        logger = next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
        if logger is None or not trainer.is_global_zero or (self._validations - 1) % self.every:
            return
        for item in (kept.to(pl_module.device) for kept in self._items):
            fixed = self.given(pl_module, item) if self._validations == 1 else {}
            for name, value in {**fixed, **self.made(pl_module, item)}.items():
                self.write(logger.experiment, f"{item.ids[0]}/{name}", value.detach().cpu(), trainer.global_step)


def one_row(batch: SpeechBatch, row: int) -> SpeechBatch:
    """Return a row of a batch as a batch of one, without padding."""
    filled = {f.name: value for f in fields(batch) if (value := getattr(batch, f.name)) is not None}
    only = replace(batch, **{name: value[row : row + 1] for name, value in filled.items()})
    cut = {"wave": only.lengths, "source": only.lengths, "features": only.feature_lengths}
    parts = {name: getattr(only, name)[:, : int(n)] for name, n in cut.items() if name in filled and n is not None}
    return replace(only, **parts)


def part_of(module: LightningModule, name: str, kind: type[T]) -> T:
    """Return a module's attribute.

    Raises:
        UserError: if it has none of this kind.
    """
    part = getattr(module, name, None)
    if not isinstance(part, kind):
        raise UserError(
            f"samples of {type(module).__name__}: it has no {kind.__name__} `{name}`; choose another callback"
        )
    return part
