"""What lies in a folder at any depth: one walk for corpora, noises and inputs, so that all find the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.files import is_regular


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is no data by its name: Macs leave `._name` and `.DS_Store` on foreign disks.

    >>> is_hidden("._take.wav"), is_hidden("take.wav")
    (True, False)
    """
    return name.startswith(".")


def shown_in(folder: Path) -> list[Path]:
    """Return what a folder holds in order of the names, without what is hidden; nothing if it is no folder."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name)) if folder.is_dir() else []


def walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder and those below it, each with its regular files, in order of their names.

    Links to folders are followed, but not back to a folder that the link lies in. What is hidden is left out.

    Raises:
        UserError: if a folder cannot be read.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status, paths = os.stat(folder), shown_in(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
        if (here := (status.st_dev, status.st_ino)) not in above:
            yield folder, [path for path in paths if is_regular(path)]
            waiting += [(path, above | {here}) for path in reversed(paths) if path.is_dir()]


def files_below(root: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Return the files below a folder in order of their names; with `suffixes`, those that end so in either case."""
    return sorted(
        path for _, files in walk(root) for path in files if suffixes is None or path.suffix.lower() in suffixes
    )


def left_out(root: Path, files: Sequence[Path], suffixes: Collection[str]) -> str:
    """Return a line on those files of a folder that end otherwise, as some may be meant; nothing if there are none.

    >>> left_out(Path("noise"), [Path("a.wav"), Path("b.mp3"), Path("c.mp3")], {".wav"})
    'left out of noise: 2 .mp3, the first b.mp3; what is read ends with .wav'
    """
    others = [path for path in files if path.suffix.lower() not in suffixes]
    if not others:
        return ""
    counts = Counter(path.suffix.lower() or "without suffix" for path in others)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"left out of {root}: {kinds}, the first {others[0]}; what is read ends with {', '.join(sorted(suffixes))}"
