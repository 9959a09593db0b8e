"""Folders of audio that any other tool made: `wavs:DIR`, one file an item, named by its id. They need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.audio import UnsoundFile, read_recording, resample
from metis_lightning.data.folders import shown_in
from metis_lightning.errors import UserError
from metis_lightning.evaluate.outputs import MISSING, Output
from metis_lightning.files import is_regular, sha256_of
from metis_lightning.types import WAVE_RATE

PREFIX = "wavs:"
"""How a folder of audio is told from a bundle on the command line."""

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".aac", ".mp4", ".wma", ".amr")
"""Files of these belong to an item, though of some formats nothing can be read, which is then said in its row."""


@dataclass(frozen=True)
class WavFolder:
    """A folder and the files in it, by the ids that they are named by."""

    folder: Path
    files: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> WavFolder:
        """List a folder.

        Raises:
            UserError: there is no such folder, no audio file in it, two files of one id, or a link out of it.
        """
        if not folder.is_dir():
            raise UserError(f"--system {PREFIX}{folder}: no such folder")
        files: dict[str, Path] = {}
        for path in shown_in(folder):
            if path.suffix.lower() not in SUFFIXES or not is_regular(path):
                continue
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"--system {PREFIX}{folder}: {path.name} leads out of the folder; copy the file into it"
                )
            if (other := files.setdefault(path.stem, path)) is not path:
                raise UserError(f"--system {PREFIX}{folder}: {other.name} and {path.name} are of one id; keep one")
        if not files:
            raise UserError(
                f"--system {PREFIX}{folder}: no audio in it ({', '.join(SUFFIXES)}); files are named ID.wav"
            )
        return cls(folder, files)

    def read(self, item_id: str) -> Output:
        """Return the file of an item, whatever its rate and channels; if it cannot be used, why."""
        path = self.files.get(item_id)
        return _nothing(MISSING) if path is None else read_output(path)

    def digest(self, ids: Collection[str]) -> str:
        """Return the SHA-256 of what the folder has for these items."""
        listed = [f"{each} {sha256_of(self.files[each]) if each in self.files else MISSING}" for each in sorted(ids)]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    def extra(self, ids: Collection[str]) -> list[str]:
        """Return the names of the files that belong to none of these items."""
        return [path.name for item_id, path in self.files.items() if item_id not in ids]


def read_output(path: Path) -> Output:
    """Return an audio file as one channel at 24 kHz: channels are averaged, the rate is converted by soxr at HQ.

    What is no sound (broken, empty, not finite, far beyond 1) is a failed output; silence is left to the metrics.
    """
    try:
        heard = read_recording(path)
    except UnsoundFile as error:
        return _nothing(error.reason)
    except UserError:
        return _nothing("not a readable audio file")
    samples = resample(heard.wave, heard.sample_rate, WAVE_RATE)
    return Output(samples, sample_rate=heard.sample_rate, channels=heard.channels, was_made=False)


def _nothing(reason: str) -> Output:
    return Output(None, reason, sample_rate=None, channels=None, was_made=False)
