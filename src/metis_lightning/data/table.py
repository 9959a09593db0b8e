"""Utterances as columns: what batches are planned from in a few bytes each, the rest left on disk until asked for."""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from metis_lightning.data.manifest import check_utterance, parse_utterance
from metis_lightning.data.speed import check_speeds, renamed
from metis_lightning.data.table_index import ManifestIndex, read_manifest_index, write_manifest_index
from metis_lightning.errors import UserError
from metis_lightning.files import digest64
from metis_lightning.types import Utterance

_COLUMNS = np.dtype(
    [("row", "i8"), ("name", "i8"), ("seconds", "f8"), ("speed", "f8"), ("speaker", "i4"), ("split", "i4")]
)


class ManifestLines(Sequence[Utterance]):
    """The utterances of a manifest, each read from its line when it is asked for; in memory are 8 bytes a line."""

    def __init__(self, path: Path, root: str, offsets: np.ndarray) -> None:
        """Name the file, what its paths are relative to, and where its lines begin and the last one ends."""
        self.path, self.root, self.offsets = path, root, offsets
        self._file: int | None = None

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | Sequence[Utterance]:
        """Read an utterance; or several, for a slice.

        Raises:
            UserError: if the manifest is not the one that was opened.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return parse_utterance(self._read(start, stop), self.root, f"{self.path}, byte {start}")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which opens the file itself."""
        return {**self.__dict__, "_file": None}

    def _read(self, start: int, stop: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            if os.fstat(self._file).st_size != int(self.offsets[-1]):
                raise UserError(f"{self.path}: the manifest has changed since this run began; start it again")
        # A read at a stated place: forked workers share the file's own position.
        return os.pread(self._file, stop - start, start)


class UtteranceTable(Sequence[Utterance]):
    """Utterances with their durations, speakers and splits as columns, 40 bytes each; parts of it share what they hold.

    Attributes:
        seconds: (N,) float64, durations.
    """

    def __init__(
        self, source: Sequence[Utterance], columns: np.ndarray, speakers: Sequence[str], splits: Sequence[str]
    ) -> None:
        """Join what `of` and `open_manifest` found; rows of `columns` name rows of `source`."""
        self.source, self._columns, self._speakers, self._splits = source, columns, speakers, splits

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> UtteranceTable:
        """Return the table of any utterances, in the order given."""
        if isinstance(utterances, UtteranceTable):
            return utterances
        listed, scan = tuple(utterances), _Scan()
        for utterance in listed:
            scan.add(utterance.id, utterance.seconds, utterance.speaker, utterance.split)
        return cls.indexed(listed, scan.index(0))

    @classmethod
    def indexed(cls, source: Sequence[Utterance], index: ManifestIndex) -> UtteranceTable:
        """Return the table of utterances of which the index is known."""
        columns = np.empty(len(source), dtype=_COLUMNS)
        columns["row"], columns["speed"] = np.arange(len(source)), 1.0
        columns["name"], columns["seconds"] = index.names, index.seconds
        columns["speaker"], columns["split"] = index.speakers, index.splits
        return cls(source, columns, index.speaker_names, index.split_names)

    @property
    def seconds(self) -> np.ndarray:
        """Durations (N,), float64."""
        return self._columns["seconds"]

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> UtteranceTable: ...

    def __getitem__(self, index: int | slice) -> Utterance | UtteranceTable:
        """Return an utterance; or a table of several, for a slice."""
        if isinstance(index, slice):
            return self.where(index)
        column = self._columns[index]
        return renamed(self.source[int(column["row"])], float(column["speed"]))

    def where(self, chosen: np.ndarray | slice) -> UtteranceTable:
        """Return the rows that an array of booleans or indices chooses."""
        return UtteranceTable(self.source, self._columns[chosen], self._speakers, self._splits)

    def in_split(self, split: str) -> UtteranceTable:
        """Return the utterances of a split."""
        code = self._splits.index(split) if split in self._splits else -1
        return self.where(self._columns["split"] == code)

    def at_speeds(self, speeds: Sequence[float]) -> UtteranceTable:
        """Return the utterances at each of the speeds, those of one speed together, as `data.speed` names them.

        Raises:
            UserError: if there is no speed, one is not positive or one occurs twice.
        """
        check_speeds(speeds)
        if list(speeds) == [1.0]:
            return self
        parts, speakers = [], list[str]()
        for speed in speeds:
            part = self._columns.copy()
            part["seconds"] /= speed
            part["speed"] *= speed
            part["speaker"] += len(speakers)
            speakers += [name if speed == 1 else f"sp{speed:g}-{name}" for name in self._speakers]
            parts.append(part)
        return UtteranceTable(self.source, np.concatenate(parts), speakers, self._splits)

    def names(self) -> np.ndarray:
        """Return 64 bits of a hash of each id (N,), by which a token store finds what it holds."""
        names = self._columns["name"].copy()
        for index in np.flatnonzero(self._columns["speed"] != 1).tolist():
            names[index] = digest64(self[index].id)
        return names

    def by_speaker(self) -> dict[str, list[int]]:
        """Return the indices of each speaker's utterances, in order."""
        codes = self._columns["speaker"]
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        groups = np.split(order, starts[1:])
        return {self._speakers[code]: group.tolist() for code, group in zip(present, groups, strict=False)}


def open_manifest(path: Path, root: str | None = None) -> UtteranceTable:
    """Read a manifest through, checking every line as `read_manifest` does, and keep what batches are planned from.

    Of a large manifest that is kept on disk too (`data.table_index`): the next run need not read it through.

    Args:
        path: the manifest.
        root: folder that its paths are relative to; None is the manifest's folder.

    Raises:
        UserError: as `read_manifest`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the data root")
    index = read_manifest_index(path)
    if index is None:
        index = _read_through(path)
        write_manifest_index(path, index)
    root = str(path.resolve().parent) if root is None else root
    return UtteranceTable.indexed(ManifestLines(path, root, index.offsets), index)


def _read_through(path: Path) -> ManifestIndex:
    scan, end = _Scan(), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                fields = check_utterance(line, f"{path}:{number}")
                scan.add(fields["id"], fields["seconds"], fields["speaker"], fields["split"])
                scan.offsets.append(end)
            end += len(line)
    index = scan.index(end)
    _check_unique(path, index.names)
    return index


class _Scan:
    """Columns as they grow, and the names behind their codes."""

    def __init__(self) -> None:
        self.names, self.seconds, self.offsets = array("q"), array("d"), array("q")
        self.speakers, self.splits = array("i"), array("i")
        self.speaker_codes: dict[str, int] = {}
        self.split_codes: dict[str, int] = {}

    def add(self, name: str, seconds: float, speaker: str, split: str) -> None:
        self.names.append(digest64(name))
        self.seconds.append(seconds)
        self.speakers.append(self.speaker_codes.setdefault(speaker, len(self.speaker_codes)))
        self.splits.append(self.split_codes.setdefault(split, len(self.split_codes)))

    def index(self, end: int) -> ManifestIndex:
        """Return what was added; the last line ends at `end`."""
        self.offsets.append(end)
        return ManifestIndex(
            names=np.array(self.names, dtype=np.int64),
            seconds=np.array(self.seconds, dtype=np.float64),
            speakers=np.array(self.speakers, dtype=np.int32),
            splits=np.array(self.splits, dtype=np.int32),
            offsets=np.array(self.offsets, dtype=np.int64),
            speaker_names=tuple(self.speaker_codes),
            split_names=tuple(self.split_codes),
        )


def _check_unique(path: Path, names: np.ndarray) -> None:
    """Refuse a manifest in which an id occurs twice; its lines are read again only if two hashes are equal."""
    ascending = np.sort(names)
    repeated = set(ascending[1:][ascending[1:] == ascending[:-1]].tolist())
    if not repeated:
        return
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            name = check_utterance(line, f"{path}:{number}")["id"]
            if name in seen:
                raise UserError(
                    f"{path}:{number}: id {name!r} occurs already at {path}:{seen[name]}; ids must be unique"
                )
            if digest64(name) in repeated:
                seen[name] = number
