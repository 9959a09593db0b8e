"""Options of `import` and `push`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metis_lightning.options import CommandOptions, option


@dataclass(frozen=True, kw_only=True)
class ImportOptions(CommandOptions):
    """Options of `import`: published files, and the bundle that is made of them."""

    source: str | None = option(
        "folder with the published files, or 'hub' to download them", None, metavar="SOURCE", positional=True
    )
    out: Path = option("the bundle: a new folder, or a bundle to add to", metavar="DIR")
    tasks: tuple[str, ...] | None = option(
        "of base tts vc tse se l2s omni (default: all whose files are there)", None, metavar="T"
    )
    file: tuple[str, ...] = option(
        "a file that lies elsewhere; a task is one file, or two: LoRA and adapter (may be repeated)",
        (),
        metavar="PART=PATH",
        repeats=True,
    )
    revision: tuple[str, ...] = option(
        "commit to download (default: the newest, which is noted in the bundle)",
        (),
        metavar="OWNER/NAME=COMMIT",
        repeats=True,
    )
    dtype: Literal["published", "float32", "bfloat16", "float16"] = option(
        "how weights are stored; bfloat16 halves their size, and rounds", "published"
    )
    sizes: str = option("sizes of the models", "paper", metavar="BUNDLE")
    ignore: tuple[str, ...] = option(
        "tensors that no model has and that are to be left out, noted in the bundle (may be repeated)",
        (),
        metavar="PATTERN",
        repeats=True,
    )


@dataclass(frozen=True, kw_only=True)
class PushOptions(CommandOptions):
    """Options of `push`: a bundle, and where it goes."""

    bundle: Path | None = option("the bundle's folder", None, metavar="BUNDLE", positional=True)
    repository: str | None = option("its name on the hub, owner/name", None, metavar="OWNER/NAME", positional=True)
    results: tuple[Path, ...] = option("runs of `evaluate` whose scores the card shows", (), metavar="DIR")
    private: bool = option("make the repository a private one, if it is new", False)
    message: str = option("of the commit", "Weights and card by metis-lightning", metavar="T")
