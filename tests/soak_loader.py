"""Draws training batches as fast as its workers make them, for a stated time, and looks for what grows or is left.

    python tests/soak_loader.py [--minutes 30] [--workers 2]

One loader serves all epochs, as in a run, and nothing is cached, as at the paper's scale. Every ten seconds it takes
the memory of this process and all below it (their proportional set sizes, so that what they share counts once), their
open files and their number. In the end it reports the slope of the memory over the second half, and fails if that half
grew by more than `--growth`, or files, processes or shared memory are left.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import OmniRecipe, TtsRecipe, WeightedRecipe
from metis_lightning.data.recipes.se import SeRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.types import SpeechBatch


class Sample(NamedTuple):
    """Of all processes at one time: seconds since the start, memory in MB, open files, and how many they are."""

    seconds: float
    memory: float
    files: int
    processes: int


def with_children(pid: int) -> list[int]:
    """A process and all below it."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(each for path in lists for child in path.read_text().split() for each in with_children(int(child)))]


def sample(start: float) -> Sample:
    memory, files, processes = 0, 0, 0
    for pid in with_children(os.getpid()):
        # One that is just ending has no memory any more.
        with suppress(ProcessLookupError, FileNotFoundError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            memory += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            files += len(os.listdir(f"/proc/{pid}/fd"))
            processes += 1
    return Sample(time.monotonic() - start, memory * 1024 / 1e6, files, processes)


def mixing(workers: int) -> SpeechDataModule:
    """Text, mixtures of two voices, and corrupted speech, as Omni's data have them."""
    enrolled = TseRecipe(enrollment="utterance", max_prompt_seconds=4.0)
    shares = ((0.2, TtsRecipe()), (0.4, enrolled), (0.4, SeRecipe()))
    recipe = OmniRecipe([WeightedRecipe(weight=weight, recipe=recipe) for weight, recipe in shares])
    return StarterDataModule(recipe=recipe, batch_seconds=60.0, num_workers=workers, cache=False)


def batches(data: SpeechDataModule) -> Iterator[SpeechBatch]:
    """Batches of one epoch after another."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def slope(samples: list[Sample]) -> float:
    """Least squares, in MB an hour."""
    return 3600 * statistics.linear_regression([s.seconds for s in samples], [s.memory for s in samples]).slope


def soak(minutes: float, workers: int, interval: float = 10.0) -> tuple[list[Sample], int, list[str]]:
    """Return what was seen of time to time, how many batches there were, and what is left behind."""
    data = mixing(workers)
    data.setup()
    gc.collect()
    start, shared = time.monotonic(), set(os.listdir("/dev/shm"))
    before, samples, count = sample(start), list[Sample](), 0
    drawn = batches(data)
    for batch in drawn:
        count += 1
        assert torch.isfinite(batch.wave).all()
        if time.monotonic() - start >= interval * (len(samples) + 1):
            samples.append(sample(start))
            print(f"{count} batches: {samples[-1]}", flush=True)
        if time.monotonic() - start >= 60 * minutes:
            break
    drawn.close()
    del batch, drawn
    gc.collect()
    after, deadline = sample(start), time.monotonic() + 30
    while after.processes > before.processes and time.monotonic() < deadline:
        time.sleep(0.5)
        after = sample(start)
    numbers = {name: (getattr(before, name), getattr(after, name)) for name in ("processes", "files")}
    left = [f"{name}: {was} before, {now} after" for name, (was, now) in numbers.items() if now > was]
    left += [f"/dev/shm/{name}" for name in sorted(set(os.listdir("/dev/shm")) - shared) if f"_{os.getpid()}_" in name]
    return samples, count, left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--growth", type=float, default=0.02, help="of the memory, in the second half")
    options = parser.parse_args()
    samples, count, left = soak(options.minutes, options.workers, interval=min(10.0, 6 * options.minutes))
    half = samples[len(samples) // 2 :]
    mean = statistics.mean(each.memory for each in half)
    grown = slope(half) / 3600 * (half[-1].seconds - half[0].seconds)
    print(f"{count} batches in {samples[-1].seconds / 60:.1f} min, {options.workers} workers")
    print(f"second half: {mean:.0f} MB on average, {slope(half):+.1f} MB an hour, {grown / mean:+.2%} in all")
    print(f"open files: {min(e.files for e in half)} to {max(e.files for e in half)}", end="; ")
    print(f"processes: {min(e.processes for e in half)} to {max(e.processes for e in half)}")
    print("left behind:", ", ".join(left) or "nothing")
    return int(bool(left) or grown > options.growth * mean)


if __name__ == "__main__":
    sys.exit(main())
