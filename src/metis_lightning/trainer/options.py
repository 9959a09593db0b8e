"""Options of `prepare tokens`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metis_lightning.options import CommandOptions, option


@dataclass(frozen=True, kw_only=True)
class PrepareTokensOptions(CommandOptions):
    """Options of `prepare tokens`: what is stored of a config's recordings, and how."""

    out: Path = option("folder of the store; what is there is not made again", metavar="DIR")
    kinds: tuple[str, ...] | None = option(
        "ssl, acoustic, features (default: what the module trains on)", None, metavar="KIND"
    )
    batch_seconds: int | None = option("audio in a batch (default: the config's)", None, metavar="S", least=1)
    shard_size: int = option("recordings in a file", 2000, metavar="N", least=1)
