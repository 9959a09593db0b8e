"""Utterances as columns: what batches are planned from in a few bytes each, the rest left on disk until asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from metis_lightning.data.manifest.records import parse_object, parse_row
from metis_lightning.data.manifest.table_index import Coded, ManifestIndex, index_of, index_rows
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


@dataclass(eq=False, repr=False)
class ManifestLines:
    """The utterances of a manifest below `root`, each read when it is asked for; in memory are 8 bytes a line.

    offsets: (N + 1,) int64, where the lines begin and the last one ends.
    """

    path: Path
    root: str
    offsets: np.ndarray
    _file: int | None = field(default=None, init=False)

    def __getitem__(self, index: int) -> Utterance:
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            if os.fstat(self._file).st_size != int(self.offsets[-1]):
                raise UserError(f"{self.path}: the manifest has changed since this run began; start it again")
        # A read at a stated place: forked workers share the file's own position.
        line, where = os.pread(self._file, stop - start, start), f"{self.path}, byte {start}"
        return parse_row(parse_object(line, where), self.root, where)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


@dataclass(eq=False, repr=False)
class UtteranceTable(Sequence[Utterance]):
    """Utterances with what batches and selections need as columns, 44 bytes each; parts of it share what they hold.

    The split of an utterance is that of the table, whatever its line says.

    columns: (N,), of which "row" counts the `source`, and "dnsmos" is NaN where none is listed.
    code_names: the names that the codes in some columns stand for.
    """

    source: Sequence[Utterance] | ManifestLines
    columns: np.ndarray
    code_names: Mapping[Coded, Sequence[str]]

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> UtteranceTable:
        """Return the table of any utterances, in the order given."""
        if isinstance(utterances, UtteranceTable):
            return utterances
        source = tuple(utterances)
        return cls.indexed(source, index_rows((vars(utterance), 0) for utterance in source))

    @classmethod
    def indexed(cls, source: Sequence[Utterance] | ManifestLines, index: ManifestIndex) -> UtteranceTable:
        """Return the table of utterances that have an index."""
        columns = np.empty(len(index.names), dtype=_COLUMNS)
        columns["row"], columns["speed"] = np.arange(len(columns)), 1.0
        columns["name"], columns["seconds"], columns["dnsmos"] = index.names, index.seconds, index.dnsmos
        columns["speaker"], columns["split"], columns["language"] = index.speakers, index.splits, index.languages
        return cls(source, columns, index.code_names)

    @property
    def seconds(self) -> np.ndarray:
        """Durations (N,), float64."""
        return self.columns["seconds"]

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> UtteranceTable: ...

    def __getitem__(self, index: int | slice) -> Utterance | UtteranceTable:
        if isinstance(index, slice):
            return self.where(index)
        column = self.columns[index]
        utterance, split = self.source[int(column["row"])], self.code_names["split"][int(column["split"])]
        if utterance.split != split:
            utterance = replace(utterance, split=split)
        return utterance_at_speed(utterance, float(column["speed"]))

    def where(self, chosen: np.ndarray | slice) -> UtteranceTable:
        """Return the rows that an array of booleans or indices chooses."""
        return UtteranceTable(self.source, self.columns[chosen], self.code_names)

    def in_split(self, split: str) -> UtteranceTable:
        """Return the utterances of a split."""
        return self.where(self.is_in("split", (split,)))

    def is_in(self, column: Coded, names: Collection[str]) -> np.ndarray:
        """Tell of which utterances the speaker, the split or the language is among `names`, (N,) bool."""
        codes = [code for code, name in enumerate(self.code_names[column]) if name in names]
        return np.isin(self.columns[column], codes)

    def is_named(self, ids: Iterable[str]) -> np.ndarray:
        """Tell which utterances have one of the ids (up to a collision of 64 bits), (N,) bool."""
        return np.isin(self.names(), np.array([digest64(name) for name in ids], dtype=np.int64))

    def with_split(self, chosen: np.ndarray, split: str) -> UtteranceTable:
        """Return the table with the chosen utterances, (N,) bool, in another split."""
        names = list(dict.fromkeys([*self.code_names["split"], split]))
        columns = self.columns.copy()
        columns["split"][chosen] = names.index(split)
        return UtteranceTable(self.source, columns, {**self.code_names, "split": names})

    def speaker_order(self) -> np.ndarray:
        """Return a hash of each utterance's speaker, (N,) int64: an order of voices that depends on nothing else."""
        names = self.code_names["speaker"]
        codes, places = np.unique(self.columns["speaker"], return_inverse=True)
        hashes = np.array([digest64(names[code]) for code in codes], dtype=np.int64)
        return hashes[places]

    def at_speeds(self, speeds: Sequence[float]) -> UtteranceTable:
        """Return the utterances at each speed, speed by speed; a UserError if one is no speed or repeated."""
        if not speeds or min(speeds) <= 0 or len(set(speeds)) < len(speeds):
            raise UserError(
                f"`speeds` must be positive and differ from each other, got {list(speeds)}; e.g. [0.9, 1.0]"
            )
        if list(speeds) == [1.0]:
            return self
        # Each speed has speakers of its own: a voice whose formants have moved is another one.
        parts, speakers = [], list[str]()
        for speed in speeds:
            part = self.columns.copy()
            part["seconds"] /= speed
            part["speed"] *= speed
            part["speaker"] += len(speakers)
            speakers += [speed_prefix(speed) + name for name in self.code_names["speaker"]]
            parts.append(part)
        return UtteranceTable(self.source, np.concatenate(parts), {**self.code_names, "speaker": speakers})

    def names(self) -> np.ndarray:
        """Return 64 bits of a hash of each id (N,), by which a token store finds what it holds."""
        names = self.columns["name"].copy()
        # The column is of ids at speed 1; another speed is part of the id.
        for index in np.flatnonzero(self.columns["speed"] != 1).tolist():
            names[index] = digest64(self[index].id)
        return names

    def by_speaker(self) -> dict[str, list[int]]:
        """Return the indices of each speaker's utterances, in order."""
        codes = self.columns["speaker"]
        # A stable sort keeps the corpus's order within a speaker, on which draws of prompts depend.
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        groups = np.split(order, starts[1:])
        names = self.code_names["speaker"]
        return {names[code]: group.tolist() for code, group in zip(present, groups, strict=False)}


def speed_prefix(speed: float) -> str:
    """Return what ids and speakers begin with at a speed: `sp0.9-`, and nothing at 1."""
    return "" if speed == 1 else f"sp{speed:g}-"


def utterance_at_speed(utterance: Utterance, speed: float) -> Utterance:
    """Return an utterance played as a tape at a speed: itself at 1, else one of another id, speaker and duration.

    Pitch and formants move with the tempo (Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015).
    """
    if speed == 1:
        return utterance
    prefix = speed_prefix(speed)
    name, speaker = prefix + utterance.id, prefix + utterance.speaker
    return replace(utterance, id=name, speaker=speaker, seconds=utterance.seconds / speed, speed=speed)


def open_manifest(path: Path | str, root: str | None = None) -> UtteranceTable:
    """Read a manifest as `read_manifest` does, or its index, into columns; a `UserError` also for a wrong checksum."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the data root")
    index, folder = index_of(path), str(path.resolve().parent) if root is None else root
    return UtteranceTable.indexed(ManifestLines(path, folder, index.offsets), index)
