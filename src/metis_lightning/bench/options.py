"""Options of the `bench` commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metis_lightning.options import CommandOptions, Device, Precision, option
from metis_lightning.sampling.settings import Preset


@dataclass(frozen=True, kw_only=True)
class BenchDataOptions(CommandOptions):
    """Options of `bench data`."""

    seconds: int = option("how long to read", 30, metavar="S", least=1)


@dataclass(frozen=True, kw_only=True)
class BenchStartOptions(CommandOptions):
    """Options of `bench start`."""

    runs: int = option("of each command, of which the fastest counts", 3, metavar="N", least=1)


@dataclass(frozen=True, kw_only=True)
class BenchEvaluateOptions(CommandOptions):
    """Options of `bench evaluate`."""

    clips: int = option("clips to score", 200, metavar="N", least=1)
    seconds: int = option("length of a clip", 5, metavar="S", least=1)
    processes: int = option("that score", os.cpu_count() or 1, metavar="N", least=1)
    memory_clips: int = option("further clips for the memory's slope, 0 for none", 2000, metavar="N")


@dataclass(frozen=True, kw_only=True)
class BenchTrainOptions(CommandOptions):
    """Options of `bench train`."""

    scale: Literal["nano", "middling", "paper"] = option(
        "paper: memory at the published sizes, by arithmetic; middling: that arithmetic beside what is measured", "nano"
    )
    batch_seconds: int = option("audio in a batch at scale nano, padding included", 200, metavar="S", least=30)
    steps: int = option("of each variant at scale nano", 8, metavar="N", least=1)
    compile: bool = option("measure a compiled transformer, too", False)
    device: Device | None = option("where to run (default: cuda where there is one)", None)
    out: Path | None = option("write the table to a Markdown file, too", None, metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class BenchGenerateOptions(CommandOptions):
    """Options of `bench generate`."""

    scale: Literal["nano", "paper"] = option("paper: the published sizes, with random weights", "nano")
    system: str = option("bundle or checkpoint at scale nano", "nano", metavar="S")
    task: Literal["tse", "se", "vc"] = option("what is asked for", "tse")
    seconds: int = option("length of a request on average", 3, metavar="S", least=1)
    batch_sizes: tuple[int, ...] = option("rows together", (1, 8), metavar="N", least=1)
    precision: tuple[Precision, ...] = option("of both stages", ("float32",))
    presets: tuple[Preset, ...] = option("each a row for every precision", ("released",))
    words: bool = option("count the words, too, that are heard in other ways than in the first row", False)
    released: bool = option("measure the released code's way, too, one row after another", False)
    num_steps: int | None = option("steps of stage 1 (default: the task's)", None, metavar="N", least=1)
    compile: bool = option("compile the backbones", False)
    threads: int | None = option("CPU threads (default: torch's)", None, metavar="N", least=1)
    device: Device | None = option("where to run (default: cuda where there is one)", None)
    out: Path | None = option("write the table to a Markdown file, too", None, metavar="FILE")
