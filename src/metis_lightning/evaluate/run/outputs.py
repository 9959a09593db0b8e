"""Outputs of systems: a waveform, or why there is none; and folders of them that other tools made.

Shape letters: S samples.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from metis_lightning.data.media.audio import InvalidAudioError, read_recording
from metis_lightning.data.media.storage import visible_in
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.types import WAVE_RATE, TestItem, Trial

# How a folder of audio is told from a bundle on the command line.
PREFIX = "wavs:"
# Why there is no waveform, where such a folder has no file for an item.
MISSING_FILE = "missing"
SILENT = "the signal is silent"
# Files of these belong to an item, though of some formats nothing can be read, which is then said in its row.
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".aac", ".mp4", ".wma", ".amr")
# What is shorter says nothing. DNSMOS would repeat it until it is long enough, and rate that.
SHORTEST_OUTPUT_SECONDS = 0.1
_NUMBER = re.compile(r"fileid_\d+$")


@dataclass(frozen=True)
class Output:
    """A waveform (S,) at its own `sample_rate` in Hz, its `channels` averaged; None with the reason in `error`."""

    wave: Tensor | None
    error: str | None = None
    # Spent to make it, if that is known, and those of the samplers of both stages.
    seconds: float | None = None
    steps: int | None = None
    sample_rate: int | None = WAVE_RATE
    channels: int | None = 1
    # Just now: a file of another tool's was not.
    was_made: bool = True

    @classmethod
    def failed(cls, reason: str, was_made: bool = False) -> Output:
        """Return an output without a waveform."""
        return cls(None, reason, sample_rate=None, channels=None, was_made=was_made)

    @property
    def fault(self) -> str | None:
        """Why there is nothing to score; None if there is."""
        if self.wave is None:
            return self.error
        if not self.wave.numel():
            return "the signal is empty"
        if not self.wave.isfinite().all():
            return "the signal has samples that are not finite"
        if not self.wave.any():
            return SILENT
        is_short = self.wave.numel() < round(SHORTEST_OUTPUT_SECONDS * self.rate)
        return f"the signal is shorter than {SHORTEST_OUTPUT_SECONDS} s" if is_short else None

    @property
    def rate(self) -> int:
        """The sample rate of `samples()`, in Hz."""
        return self.sample_rate or WAVE_RATE

    def samples(self) -> Tensor:
        """Return the waveform; no samples if there is none, or they are not finite."""
        return torch.empty(0) if self.wave is None or not self.wave.isfinite().all() else self.wave


Run = Callable[[Trial, TestItem, int], Output]
"""A loaded system: of a trial, its audio and a seed it makes an output."""


def timed(run: Run, trial: Trial, item: TestItem, seed: int) -> Output:
    """Run a loaded system on an item and time it; that it refuses the item is a result too, anything else a bug."""
    start = time.perf_counter()
    try:
        output = run(trial, item, seed)
    except UserError as error:
        output = Output.failed(f"not generated: {error}", was_made=True)
    except Exception as error:
        error.add_note(f"while generating {trial.id}")
        raise
    return replace(output, seconds=round(time.perf_counter() - start, 3)) if output.was_made else output


def read_output(path: Path) -> Output:
    """Return an audio file at its own rate, its channels averaged; a failed output if it is no sound."""
    # Broken, empty, not finite or far beyond 1; silence is left to the metrics.
    try:
        recording = read_recording(path)
    except InvalidAudioError as error:
        return Output.failed(error.reason)
    except UserError:
        return Output.failed("not a readable audio file")
    return Output(recording.wave, sample_rate=recording.sample_rate, channels=recording.channels, was_made=False)


@dataclass(frozen=True)
class Items:
    """The ids that systems are run on, all that the test sets have, whatever the limit, and ids by others' names."""

    chosen: Collection[str]
    all_ids: Collection[str]
    by_other_name: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WavFolder:
    """The files of a folder, by the ids of the items that they are of; `extra` are those of no item."""

    files: Mapping[str, Path]
    extra: Sequence[str]

    @classmethod
    def of(cls, folder: Path, items: Items) -> WavFolder:
        """List files named `ID`, or as other tools name them, in a folder. A `UserError` if they cannot all be used."""
        option = f"--system {PREFIX}{folder}"
        if not folder.is_dir():
            raise UserError(f"{option}: no such folder")
        files: dict[str, Path] = {}
        extra = []
        within = [path for path in visible_in(folder) if path.is_dir() and not path.is_symlink()]
        for path in (path for each in (folder, *within) for path in visible_in(each)):
            if path.suffix.lower() not in AUDIO_SUFFIXES or not os.path.isfile(path):
                continue
            # A link could lead to any file of the machine, whose sound would be copied into the results.
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{option}: {path.name} leads out of the folder; copy the file into it")
            item_id = _item_id(path.relative_to(folder), items)
            if item_id is not None and (other := files.setdefault(item_id, path)) is not path:
                named = f"{other.relative_to(folder)} and {path.relative_to(folder)}"
                raise UserError(f"{option}: {named} are of one id; keep one")
            if item_id is None and path.parent == folder:
                extra.append(path.name)
        if not files and not extra:
            raise UserError(f"{option}: no audio in it ({', '.join(AUDIO_SUFFIXES)}); files are named ID.wav")
        if items.chosen and not any(item_id in files for item_id in items.chosen):
            names = extra or [str(path.relative_to(folder)) for path in files.values()]
            raise UserError(
                f"{option}: files for 0 of {len(items.chosen)} items: one is called {names[0]}, an item "
                f"{sorted(items.chosen)[0]}; name the files ID.wav (--export writes the items by their ids)"
            )
        return cls(files, extra)

    def digest(self, ids: Collection[str]) -> str:
        """Return the SHA-256 of what the folder has for these items."""
        content = {each: sha256_of(self.files[each]) if each in self.files else MISSING_FILE for each in sorted(ids)}
        return hashlib.sha256("\n".join(f"{each} {digest}" for each, digest in content.items()).encode()).hexdigest()


def _item_id(path: Path, items: Items) -> str | None:
    """Return the id of the item that a file, relative to its folder, is of."""
    if path.parent == Path() and path.stem in items.all_ids:
        return path.stem
    name = path.with_suffix("").as_posix()
    if name in items.by_other_name:
        return items.by_other_name[name]
    # What enhances the recordings of the DNS Challenge keeps the number at the end of their names.
    number = _NUMBER.search(name)
    return None if number is None else items.by_other_name.get((path.parent / number[0]).as_posix())
