"""Speed of a training, and its waits for data, in every logger and the progress bar."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import Throughput, get_available_flops
from lightning.pytorch.callbacks.progress import TQDMProgressBar
from lightning.pytorch.callbacks.throughput_monitor import _plugin_to_compute_dtype
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

from metis_lightning.models.backbone import Backbone
from metis_lightning.models.flops import training_flops
from metis_lightning.types import HOP, SpeechBatch


class TrainingThroughput(Callback):
    """Logs under `throughput/`, at each `log_every_n_steps`, what Lightning's `Throughput` measures since the last.

    tokens_per_second: token frames of 20 ms without padding, over all processes; also in the progress bar.
    mfu: `training_flops` a second over the device's data sheet, where Lightning knows it; in the progress bar, too.
    padding: share of the frames of the batches that are padding.
    data_wait: share of the time in which the next batch was waited for. Validation is no part of the time.
    memory_gb: the most that this process has had, of a GPU's memory if it has one.

    Lightning's `ThroughputMonitor` waits for a GPU after every batch; this counts on the host. What runs ahead of the
    device is a step, since training waits once a step for the number of masked tokens.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what the device can do."""
        if stage != "fit":
            return
        peak = get_available_flops(trainer.strategy.root_device, _plugin_to_compute_dtype(trainer.precision_plugin))
        self._measured = Throughput(peak, trainer.world_size, window_size=2)
        self._waits = DataWaits()
        # A user's own profiler stays, and the share is not known then.
        if isinstance(getattr(trainer, "profiler", None), PassThroughProfiler):
            vars(trainer)["profiler"] = self._waits

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, after what happens once."""
        self._start, self._waits.seconds = perf_counter(), 0.0
        # Token frames of the rows of each batch since then.
        self._frames: list[list[int]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, *_: object
    ) -> None:
        """Count a batch, and log what is due."""
        if isinstance(batch, SpeechBatch):
            self._frames.append([samples // HOP for samples in batch.samples or batch.lengths.tolist()])
        is_due = trainer._logger_connector.should_update_logs and not trainer.fit_loop._should_accumulate()
        if not is_due or not any(map(sum, self._frames)):
            return
        elapsed, frames = perf_counter() - self._start, sum(map(sum, self._frames))
        self._measured.reset()
        self._measured.update(time=0.0, batches=0, samples=0, lengths=0, flops=0)
        counts = {"batches": len(self._frames), "samples": sum(map(len, self._frames)), "lengths": frames}
        self._measured.update(time=elapsed, flops=_flops(pl_module, self._frames), **counts)
        found = self._measured.compute()
        shown = {"tokens_per_second": found["device/items_per_sec"] * trainer.world_size}
        # Of this process: the others are alike.
        shown |= {"mfu": found["device/mfu"]} if found.get("device/mfu") else {}
        rest = {"padding": 1 - frames / sum(len(rows) * max(rows) for rows in self._frames)}
        rest["memory_gb"] = peak_memory(pl_module.device) / 1e9
        if vars(trainer)["profiler"] is self._waits:
            rest["data_wait"] = self._waits.seconds / elapsed
        for values, is_shown in ((shown, True), (rest, False)):
            pl_module.log_dict({f"throughput/{name}": value for name, value in values.items()}, prog_bar=is_shown)
        self.on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stopped = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it run on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start += perf_counter() - self._stopped


def _flops(module: LightningModule, frames: Sequence[Sequence[int]]) -> int:
    """Return the operations that training a module on batches of rows takes; 0 if it has no transformer."""
    backbone = next((part for part in module.modules() if isinstance(part, Backbone)), None)
    if backbone is None:
        return 0
    config: Any = module.get_submodule("model").config
    flops = sum(training_flops(backbone, rows, config.codebook_size) for rows in frames)
    return int(flops * getattr(module, "masks_per_row", 1))


class RunProgressBar(TQDMProgressBar):
    """Lightning's bar of an epoch's batches, with the steps of the run beside: a run ends by its steps."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        of = f"/{trainer.max_steps:,}" if trainer.max_steps > 0 else ""
        return {**super().get_metrics(trainer, pl_module), "step": f"{trainer.global_step:,}{of}"}


class DataWaits(Profiler):
    """Adds up the `seconds` in which the training loop waited for its next batch."""

    seconds = _since = 0.0

    def start(self, action_name: str) -> None:
        """Note when a wait begins."""
        if action_name.endswith("train_dataloader_next"):
            self._since = perf_counter()

    def stop(self, action_name: str) -> None:
        """Add a wait that is over."""
        if action_name.endswith("train_dataloader_next"):
            self.seconds += perf_counter() - self._since


def peak_memory(device: torch.device) -> float:
    """Return the most bytes that this process has had at a time: of a GPU's memory, or resident ones."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
