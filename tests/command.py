"""Command lines in processes of their own that have the large imports already: as in a shell, without the wait."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PRELOADED = [
    "metis_lightning.trainer.main",
    "metis_lightning.evaluate.run.main",
    "metis_lightning.tasks.conditioned",
]


def run_command(words: Sequence[str], folder: Path, said: Path) -> int:
    """Run `python -m metis_lightning WORDS` in a folder; return its exit status, what it said in the file `said`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(list(words), folder, said))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _main(words: list[str], folder: Path, said: Path) -> None:
    from metis_lightning.cli.main import main

    os.chdir(folder)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["metis_lightning", *words]
    sys.exit(main())
