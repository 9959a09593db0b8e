"""Training steps in processes of their own: whether a batch fits into memory, and how long a step takes.

A process that runs out of memory may leave what it was a part of in any state, so each try has one of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning import Callback
from torch.utils.data import DataLoader

from metis_lightning.callbacks.checkpoints import RunCheckpoint
from metis_lightning.callbacks.run_folder import LoggedConfig
from metis_lightning.callbacks.throughput import peak_memory
from metis_lightning.callbacks.validation_samples import ValidationSamples
from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.batches.sampler import SecondsBatchSampler, collate
from metis_lightning.errors import UserError
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import build_from_config

# How near the largest batch is found, as a share of it.
RESOLUTION = 0.05
# Of CUDA, of torch's allocator, of the system, of C++ and of oneDNN.
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "could not create a primitive")


@dataclass(frozen=True)
class StepCosts:
    """What training steps took.

    batch_seconds, memory: of the largest batch, its seconds with padding and the bytes at its peak.
    step_seconds: time of a step on a batch of middle size.
    """

    batch_seconds: float
    memory: float
    step_seconds: float
    checkpoint_bytes: int


def steps_of(config: Sequence[str], batch_seconds: float | None, limit: float | None) -> StepCosts | None:
    """Take two steps of a config in a process that may have `limit` bytes; None if that is too little.

    A `UserError` if the config does not fit, or the process ends in another way.
    """
    # Not forked from here: threads of this process would be missing there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_steps, args=(sender, list(config), batch_seconds, limit))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        # Killed by the system, which is what a machine without swap does.
        answer = None
    process.join()
    if isinstance(answer, str):
        raise UserError(answer)
    costs: StepCosts | None = answer
    return costs


def largest_batch(fits: Callable[[float], bool], start: float, most: float) -> tuple[float, float | None]:
    """Return the largest number of seconds that fits, and the smallest tried that does not; 0 if none does.

    Doubles or halves `start`, up to `most`, then bisects to within `RESOLUTION`; None if all of `most` fits.

    >>> largest_batch(lambda seconds: seconds <= 70, 40, 1000)
    (70.0, 72.5)
    """
    low, high, size = 0.0, None, float(start)
    while high is None or not low:
        if fits(size):
            low = size
            if size >= most or high is not None:
                break
            size = min(2 * size, most)
        else:
            high, size = size, size / 2
            if size < 1:
                return 0.0, high
    while high is not None and high - low > RESOLUTION * low:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, high


class _StepTimes(Callback):
    """Notes how long each step takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        """Stop it, once a GPU has done its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(perf_counter() - self._start)


def _steps(sender: Connection, config: list[str], batch_seconds: float | None, limit: float | None) -> None:
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    answer: StepCosts | str | None
    try:
        answer = take_steps(config, batch_seconds, limit)
    except UserError as error:
        answer = str(error)
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)
        answer = None if is_memory else f"a training step failed: {(str(error).splitlines() or [repr(error)])[0]}"
    sender.send(answer)


def take_steps(config: Sequence[str], batch_seconds: float | None, limit: float | None) -> StepCosts:
    """Train on the largest batch of a config's first epoch and on one of middle size; write nothing.

    A `UserError` if the config names no module and corpus of this package.
    """
    size = [] if batch_seconds is None else [f"--data.batch_seconds={batch_seconds:g}"]
    cli = build_from_config([*config, *size])
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    if not isinstance(data, SpeechDataModule) or not isinstance(model, TrainableModule):
        raise UserError("doctor: give a config of a module and a corpus of this package with -c")
    times, settings = _StepTimes(), vars(trainer)
    unwanted = (RunCheckpoint, LoggedConfig, ValidationSamples)
    settings["callbacks"] = [*(each for each in settings["callbacks"] if not isinstance(each, unwanted)), times]
    trainer.loggers, trainer.limit_val_batches, trainer.fit_loop.epoch_loop.max_steps = [], 0, 2
    model.read_stored_tokens(data, trainer.strategy.root_device)
    loader = data.train_dataloader()
    sampler = loader.batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    batches = sorted(sampler, key=lambda batch: _padded(batch, sampler.lengths))
    # The second step is the timed one: the first has what happens once.
    chosen = [batches[-1], batches[len(batches) // 2]]
    _limit_memory(limit, trainer.strategy.root_device)
    trainer.fit(model, DataLoader(loader.dataset, batch_sampler=chosen, collate_fn=collate))
    content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    largest = _padded(batches[-1], sampler.lengths)
    memory = peak_memory(trainer.strategy.root_device)
    return StepCosts(largest, memory, times.seconds[-1], _bytes_of(content))


def _padded(batch: Sequence[tuple[int, int]], lengths: np.ndarray) -> float:
    return len(batch) * float(max(lengths[index] for _, index in batch))


def _limit_memory(limit: float | None, device: torch.device) -> None:
    """Let this process have so many bytes of a GPU's memory, or of the machine's."""
    if limit is None:
        return
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, limit / torch.cuda.get_device_properties(device).total_memory)
        )
        return
    if not sys.platform.startswith("linux"):
        raise UserError("--memory-limit: on the processor only Linux can hold a process to it")
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()[:2]]
    addressed, resident = (count * resource.getpagesize() for count in pages)
    # What is addressed and not used, such as libraries, is no memory.
    most = int(addressed - resident + limit)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _bytes_of(content: Any) -> int:  # noqa: ANN401  whatever a checkpoint holds
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(_bytes_of, values))
