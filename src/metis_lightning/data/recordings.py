"""Folders of the user's recordings: noises and room responses, drawn one at a time."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from metis_lightning.data.audio import audio_seconds, check_sound, read_audio
from metis_lightning.data.folders import files_below, left_out
from metis_lightning.data.progress import Progress
from metis_lightning.data.recipe import draw_int, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE

SUFFIXES = (".wav", ".flac")
# Files that a message names.
_SHOWN = 5


class Recordings:
    """Every wav and flac file below a folder.

    The folder is listed at the first draw, so that a config can be read on a machine that lacks it.
    """

    def __init__(self, root: Path) -> None:
        """Name the folder; it is searched at any depth, and it and folders in it may be links."""
        self.root = Path(root)

    @cached_property
    def paths(self) -> list[Path]:
        """The files in order of their names.

        Raises:
            UserError: if there is no such folder or no such file in it.
        """
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give the folder of the recordings, or none for synthetic ones"
            )
        found = files_below(self.root, SUFFIXES)
        if not found:
            raise UserError(f"{self.root}: no {' or '.join(SUFFIXES)} file in it or below it")
        return found

    def look_through(self) -> None:
        """Read every file, so that one that is no sound ends a run before it begins, and say what else lies there.

        Raises:
            UserError: naming the first of them.
        """
        paths, faults = self.paths, []
        below = [path.relative_to(self.root) for path in files_below(self.root)]
        if left := left_out(self.root, below, SUFFIXES):
            rank_zero_info(left)
        with Progress(f"looking through {self.root}", "files", len(paths), leave=False) as progress:
            for path in paths:
                try:
                    check_sound(path, channel=0)
                except UserError as error:
                    faults.append(f"{path.relative_to(self.root)} ({getattr(error, 'reason', '') or 'unreadable'})")
                progress.step()
        if faults:
            more = ", …" if len(faults) > _SHOWN else ""
            raise UserError(
                f"{self.root}: {len(faults)} of {len(paths)} recordings hold no sound: "
                f"{', '.join(faults[:_SHOWN])}{more}; remove or replace them"
            )

    def draw(self, generator: torch.Generator, samples: int | None = None) -> tuple[Tensor, str]:
        """Return the first channel (S,) at 24 kHz of a file, each equally likely, and its path below the folder.

        With `samples`, a longer file is read from a random place on for about so many: some corpora's files are minutes
        long.
        """
        path = self.paths[draw_int(len(self.paths), generator)]
        part = None
        if samples is not None:
            seconds = samples / WAVE_RATE
            spare = audio_seconds(path) - seconds
            part = (draw_uniform(0.0, spare, generator), seconds) if spare > 0 else None
        return read_audio(path, WAVE_RATE, channel=0, part=part), path.relative_to(self.root).as_posix()
