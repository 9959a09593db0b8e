"""Utterances as columns: what batches are planned from in a few bytes each, the rest left on disk until asked for."""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from metis_lightning.data.manifest.records import check_manifest, check_utterance, manifest_root, parse_utterance
from metis_lightning.data.manifest.table_index import ManifestIndex, read_manifest_index, write_manifest_index
from metis_lightning.data.media.speed import check_speeds, speed_prefix, utterance_at_speed
from metis_lightning.errors import UserError
from metis_lightning.files import digest64
from metis_lightning.types import Utterance

_COLUMNS = np.dtype(
    [
        ("row", "i8"),
        ("name", "i8"),
        ("seconds", "f8"),
        ("speed", "f8"),
        ("dnsmos", "f4"),
        ("speaker", "i4"),
        ("split", "i2"),
        ("language", "i2"),
    ]
)

_NONE = float("nan")


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


@dataclass(frozen=True)
class Names:
    """What the codes in a table's columns stand for."""

    speakers: Sequence[str]
    splits: Sequence[str]
    languages: Sequence[str]


class UtteranceTable(Sequence[Utterance]):
    """Utterances with what batches and selections need as columns, 44 bytes each; parts of it share what they hold.

    The split of an utterance is that of the table, whatever its line says.

    Attributes:
        seconds: (N,) float64, durations.
        dnsmos: (N,) float32, as the corpus lists it; NaN where it does not.
        speakers: (N,) int32, equal where the speaker is.
    """

    def __init__(self, source: Sequence[Utterance], columns: np.ndarray, named: Names) -> None:
        """Join what `of` and `open_manifest` found; rows of `columns` name rows of `source`."""
        self.source, self._columns, self._named = source, columns, named

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> UtteranceTable:
        """Return the table of any utterances, in the order given."""
        if isinstance(utterances, UtteranceTable):
            return utterances
        listed, scan = tuple(utterances), _Scan()
        for utterance in listed:
            scan.add(vars(utterance))
        return cls.indexed(listed, scan.index(0))

    @classmethod
    def indexed(cls, source: Sequence[Utterance], index: ManifestIndex) -> UtteranceTable:
        """Return the table of utterances of which the index is known."""
        columns = np.empty(len(source), dtype=_COLUMNS)
        columns["row"], columns["speed"] = np.arange(len(source)), 1.0
        columns["name"], columns["seconds"], columns["dnsmos"] = index.names, index.seconds, index.dnsmos
        columns["speaker"], columns["split"], columns["language"] = index.speakers, index.splits, index.languages
        return cls(source, columns, Names(index.speaker_names, index.split_names, index.language_names))

    @property
    def seconds(self) -> np.ndarray:
        """Durations (N,), float64."""
        return self._columns["seconds"]

    @property
    def dnsmos(self) -> np.ndarray:
        """DNSMOS (N,), float32; NaN where none is listed."""
        return self._columns["dnsmos"]

    @property
    def speakers(self) -> np.ndarray:
        """Codes of the speakers (N,), int32."""
        return self._columns["speaker"]

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
        utterance, split = self.source[int(column["row"])], self._named.splits[int(column["split"])]
        if utterance.split != split:
            utterance = replace(utterance, split=split)
        return utterance_at_speed(utterance, float(column["speed"]))

    def where(self, chosen: np.ndarray | slice) -> UtteranceTable:
        """Return the rows that an array of booleans or indices chooses."""
        return UtteranceTable(self.source, self._columns[chosen], self._named)

    def in_split(self, split: str) -> UtteranceTable:
        """Return the utterances of a split."""
        return self.where(self.is_split(split))

    def is_split(self, split: str) -> np.ndarray:
        """Tell which utterances are of a split, (N,) bool."""
        return self._is("split", self._named.splits, (split,))

    def is_language(self, languages: Collection[str]) -> np.ndarray:
        """Tell which utterances are in one of the languages, (N,) bool."""
        return self._is("language", self._named.languages, languages)

    def is_speaker(self, speakers: Collection[str]) -> np.ndarray:
        """Tell which utterances are of one of the speakers, (N,) bool."""
        return self._is("speaker", self._named.speakers, speakers)

    def is_named(self, ids: Iterable[str]) -> np.ndarray:
        """Tell which utterances have one of the ids (up to a collision of 64 bits), (N,) bool."""
        return np.isin(self.names(), np.array([digest64(name) for name in ids], dtype=np.int64))

    def moved(self, chosen: np.ndarray, split: str) -> UtteranceTable:
        """Return the table with the chosen utterances, (N,) bool, in another split."""
        splits = self._named.splits
        named = self._named if split in splits else replace(self._named, splits=(*splits, split))
        columns = self._columns.copy()
        columns["split"][chosen] = named.splits.index(split)
        return UtteranceTable(self.source, columns, named)

    def speaker_order(self) -> np.ndarray:
        """Return a hash of each utterance's speaker, (N,) int64: an order of voices that depends on nothing else."""
        present, places = np.unique(self.speakers, return_inverse=True)
        return np.array([digest64(self._named.speakers[code]) for code in present], dtype=np.int64)[places]

    def _is(self, column: str, names: Sequence[str], wanted: Collection[str]) -> np.ndarray:
        return np.isin(self._columns[column], [code for code, name in enumerate(names) if name in wanted])

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
            speakers += [speed_prefix(speed) + name for name in self._named.speakers]
            parts.append(part)
        return UtteranceTable(self.source, np.concatenate(parts), replace(self._named, speakers=speakers))

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
        return {self._named.speakers[code]: group.tolist() for code, group in zip(present, groups, strict=False)}


def open_manifest(path: Path | str, root: str | None = None) -> UtteranceTable:
    """Read a manifest through, checking every line as `read_manifest` does, and keep what batches are planned from.

    Of a large manifest that is kept on disk too (`data.table_index`): the next run need not read it through.

    Args:
        path: the manifest.
        root: folder or URL that its paths are relative to; None is the manifest's folder.

    Raises:
        UserError: as `read_manifest`, or if it is not the manifest that the checksum beside it is of.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the data root")
    index = read_manifest_index(path)
    if index is None:
        check_manifest(path)
        index = _read_through(path)
        write_manifest_index(path, index)
    return UtteranceTable.indexed(ManifestLines(path, manifest_root(path, root), index.offsets), index)


def _read_through(path: Path) -> ManifestIndex:
    scan, end = _Scan(), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                fields = check_utterance(line, f"{path}:{number}")
                scan.add(fields)
                scan.offsets.append(end)
            end += len(line)
    index = scan.index(end)
    _check_unique(path, index.names)
    return index


class _Scan:
    """Columns as they grow, and the names behind their codes."""

    def __init__(self) -> None:
        self.names, self.seconds, self.dnsmos, self.offsets = array("q"), array("d"), array("f"), array("q")
        self.speakers, self.splits, self.languages = _Codes(), _Codes(), _Codes()

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add the fields of an utterance."""
        self.names.append(digest64(fields["id"]))
        self.seconds.append(fields["seconds"])
        self.dnsmos.append(_NONE if fields["dnsmos"] is None else fields["dnsmos"])
        self.speakers.add(fields["speaker"])
        self.splits.add(fields["split"])
        self.languages.add(fields["language"])

    def index(self, end: int) -> ManifestIndex:
        """Return what was added; the last line ends at `end`."""
        self.offsets.append(end)
        return ManifestIndex(
            names=np.array(self.names, dtype=np.int64),
            seconds=np.array(self.seconds, dtype=np.float64),
            dnsmos=np.array(self.dnsmos, dtype=np.float32),
            speakers=np.array(self.speakers.codes, dtype=np.int32),
            splits=np.array(self.splits.codes, dtype=np.int32),
            languages=np.array(self.languages.codes, dtype=np.int32),
            offsets=np.array(self.offsets, dtype=np.int64),
            speaker_names=tuple(self.speakers.known),
            split_names=tuple(self.splits.known),
            language_names=tuple(self.languages.known),
        )


class _Codes:
    """A column of names as numbers, in the order of their first use."""

    def __init__(self) -> None:
        self.codes, self.known = array("i"), dict[str, int]()

    def add(self, name: str) -> None:
        self.codes.append(self.known.setdefault(name, len(self.known)))


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
