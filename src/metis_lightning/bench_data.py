"""`bench data`: whether the batches of a config come as fast as a model takes them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from metis_lightning.data.module import SpeechDataModule
from metis_lightning.data.throughput import Throughput, measure
from metis_lightning.errors import UserError
from metis_lightning.lightning_cli import build_from_config
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.stored_targets import read_stored


def run_bench_data(options: Namespace, config: Sequence[str]) -> None:
    """Run `bench data` as the command line asks.

    Raises:
        UserError: if the config's corpus is none of this package's.
    """
    cli = build_from_config(config)
    datamodule = cli.datamodule
    if not isinstance(datamodule, SpeechDataModule) or not isinstance(cli.model, TrainableModule):
        raise UserError("bench data: give a config of a module and a corpus of this package with -c")
    tokenizer, device = getattr(cli.model, "tokenizer", None), cli.trainer.strategy.root_device
    read_stored(datamodule, tokenizer, cli.model.token_kinds, device)
    print(*report(measure(datamodule, options.seconds), datamodule), sep="\n")


def report(found: Throughput, datamodule: SpeechDataModule) -> list[str]:
    """Return the lines that `bench data` prints."""
    source = "audio" if datamodule.tokens is None else f"token store {datamodule.tokens}"
    rate = found.hours_per_second * 3600 / datamodule.batch_seconds
    lines = [
        f"corpus       {found.utterances:,} utterances, {found.hours:,.2f} h, read from {source}",
        f"start-up     {found.setup_seconds:.2f} s, {found.setup_megabytes:.0f} MB",
        f"resume       {found.resume_seconds:.2f} s to the first batch, from the middle of an epoch",
        f"padding      {found.padding:.1%} of a batch; without length buckets {found.padding_unbucketed:.1%}",
        f"throughput   {found.hours_per_second:.3f} hours of audio a second with {datamodule.num_workers} workers "
        f"({found.batches} batches in {found.read_seconds:.1f} s)",
        f"so a device that takes a step of {datamodule.batch_seconds:g} s of audio in {1 / max(rate, 1e-9):.3f} s "
        "or more does not wait for data",
    ]
    if not datamodule.num_workers and found.processor_seconds:
        # What a machine with other work on it still measures.
        lines.append(f"per core     {found.read_hours / found.processor_seconds:.3f} hours of audio a processor second")
    return lines
