"""Libri2Mix, Libri3Mix, … on disk, and what they share with mixtures that are made when read (`librimix_made`).

The layout is that of LibriMix's script: `wav{8k,16k}/{min,max}/metadata/mixture_<subset>_<mix>.csv`, and beside
`metadata/` the folders `<subset>/{s1,s2,…,mix_clean,mix_both,mix_single,noise}/`. Paths in the csv are absolute, from
the machine that made them; only their last three parts are used, so a corpus may move. Each source of a mixture is an
utterance, `ID_s1`, which is `heard` in the mixture.
"""

from __future__ import annotations

import csv
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from metis_lightning.data.corpora.librispeech import LICENSE, Transcripts
from metis_lightning.data.manifest.enrollment import MixtureSource
from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, chunks
from metis_lightning.data.media.audio import decode
from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import inspect_audio
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import files_stamp
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path

MIXES = ("mix_clean", "mix_both", "mix_single")
"""All voices; all voices and noise; the first voice and noise."""

_SHARD_ROWS = 250

Line = Mapping[str, str]


@dataclass(frozen=True)
class MixtureScan(CorpusScan):
    """What mixtures on disk and mixtures to be made have in common: a csv with a line for each.

    mix: one of `MIXES`.
    librispeech: LibriSpeech's folder, for the transcripts, and to tell cut sources from whole ones; None leaves the
        texts empty.
    """

    mix: str = "mix_clean"
    librispeech: Path | None = None

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise UserError(f"mix {self.mix!r}: choose one of {', '.join(MIXES)}")

    @abstractmethod
    def tables(self) -> Sequence[Path]:
        """Return the csv files."""

    @abstractmethod
    def files(self, line: Line) -> Sequence[Path]:
        """Return the files of a line's mixture; those that are not there do not matter."""

    @abstractmethod
    def mixture(self, line: Line, subset: str) -> Mixture:
        """Return a line's mixture.

        Raises:
            AudioFault: if it is not sound.
            UserError: if a file cannot be read.
        """

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 lines."""
        found = []
        for table in self.tables():
            for number, lines in enumerate(chunks(read_table(table), _SHARD_ROWS)):
                stamp = files_stamp(table, *(file for line in lines for file in self._named(line)))
                found.append(Shard(f"{table}:{number}", stamp))
        return found

    def _named(self, line: Line) -> Sequence[Path]:
        """Return the files of a line; none if it is odd, which the scan says."""
        try:
            return self.files(line)
        except (UserError, ValueError):
            return []

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield the sources of a piece's mixtures."""
        name, _, number = shard.name.rpartition(":")
        start = int(number) * _SHARD_ROWS
        texts = None if self.librispeech is None else Transcripts(self.librispeech)
        for line in read_table(Path(name))[start : start + _SHARD_ROWS]:
            where = f"{Path(name).name}/{line['mixture_ID']}"
            try:
                yield from self._rows(line, _subset(Path(name)), texts)
            except AudioFault as odd:
                yield Fault(where, odd.kind, odd.detail)
            except UserError as error:
                yield Fault(where, "unreadable mixture", str(error))
            except (ValueError, OverflowError) as error:
                yield Fault(where, "wrong field", str(error))

    def _rows(self, line: Line, subset: str, texts: Transcripts | None) -> Iterator[Row]:
        made, utterances = self.mixture(line, subset), line["mixture_ID"].split("_")
        if len(utterances) < len(made.sources):
            raise AudioFault("wrong mixture id", f"{line['mixture_ID']} does not name {len(made.sources)} utterances")
        for number, path in enumerate(made.sources, start=1):
            source = MixtureSource(line["mixture_ID"], number)
            whole = None if texts is None else texts.seconds(source.utterance)
            yield {
                "id": source.id,
                "path": path,
                "heard": made.mixture,
                "speaker": source.speaker,
                "text": "" if texts is None else texts.text(source.utterance),
                "language": "en",
                "seconds": round(made.samples / made.sample_rate, 4),
                "sample_rate": made.sample_rate,
                "channels": 1,
                "split": "train" if subset.startswith("train") else subset,
                "source": f"LibriMix {subset} {self.mix}",
                "license": LICENSE,
                # A sample is lost where the rate is converted.
                **({} if whole is None else {"is_whole": made.samples + 2 > whole * made.sample_rate}),
            }


@dataclass(frozen=True)
class Mixture:
    """Locations, as a manifest has them, of a mixture and of its sources, and their common length and rate in Hz."""

    mixture: object
    sources: Sequence[object]
    samples: int
    sample_rate: int


@dataclass(frozen=True)
class LibriMixScan(MixtureScan):
    """Lists mixtures on disk; each must be the sum of its sources within the rounding of 16-bit files.

    root: such as `Libri2Mix/wav16k/min`.
    """

    root: str = ""

    layout = "metadata/mixture_<subset>_<mix>.csv"

    def tables(self) -> Sequence[Path]:
        """Return the csv of each subset."""
        return sorted((Path(self.root) / "metadata").glob(f"mixture_*_{self.mix}.csv"))

    def files(self, line: Line) -> Sequence[Path]:
        """Return the wav files of a mixture."""
        return [Path(self.root) / _moved(path) for column, path in line.items() if column.endswith("_path")]

    def mixture(self, line: Line, subset: str) -> Mixture:
        """Read the wav files and compare."""
        paths = {column: _moved(path) for column, path in line.items() if column.endswith("_path")}
        waves = {column: self._wave(path) for column, path in paths.items()}
        total, sources = waves.pop("mixture_path"), [name for name in waves if name.startswith("source_")]
        expected = round(float(line["length"]))
        if lengths := [f"{paths[name]}: {len(wave)}" for name, wave in waves.items() if len(wave) != len(total)]:
            raise AudioFault("wrong length", f"{', '.join(lengths)} samples; the mixture has {len(total)}")
        if len(total) != expected:
            raise AudioFault("wrong length", f"{len(total)} samples, the csv says {expected}")
        _check_sum(total, list(waves.values()))
        return Mixture(paths["mixture_path"], [paths[name] for name in sources], len(total), self._rate())

    def _wave(self, path: str) -> np.ndarray:
        file = Path(self.root) / path
        if not file.is_file():
            raise AudioFault("missing file", path)
        data = file.read_bytes()
        try:
            found = inspect_audio(data)
        except AudioFault as odd:
            raise AudioFault(odd.kind, f"{path} {odd.detail}".strip()) from odd
        if found.sample_rate != self._rate():
            raise AudioFault("wrong sample rate", f"{path}: {found.sample_rate} Hz in a folder of {self._rate()} Hz")
        return decode(data, path)[0][:, 0]

    def _rate(self) -> int:
        """Return the sample rate that the folder's name states."""
        for part in reversed(Path(self.root).resolve().parts):
            if match := re.fullmatch(r"wav(\d+)k", part):
                return int(match[1]) * 1000
        raise UserError(f"{self.root}: give the folder that holds metadata/, such as Libri2Mix/wav16k/min")


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the lines of one of LibriMix's csv files.

    Raises:
        UserError: if there is none, it has no mixtures' columns, or a line lacks a field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such csv file")
    try:
        # A spreadsheet starts its files with a byte-order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not UTF-8 csv ({error}); make or download it anew") from error
    columns = lines[0].keys() if lines else ()
    if not {"mixture_ID", "source_1_path"} <= set(columns):
        raise UserError(
            f"{path}: not a list of LibriMix's mixtures: it has no lines, or no mixture_ID and source_1_path"
        )
    for number, line in enumerate(lines, start=2):
        if None in line.values() or None in line:
            raise UserError(f"{path}:{number}: expected {len(columns)} fields; the file is cut or damaged")
    return lines


def _subset(table: Path) -> str:
    """Return the subset of a csv file, as `mixture_train-100_mix_both` or `libri2mix_train-clean-100`: train-100."""
    name = re.sub(r"^(mixture|libri\d+mix)_", "", table.stem)
    return re.sub(r"_mix_(clean|both|single)$", "", name).replace("-clean", "")


def _moved(path: str) -> str:
    """Return `<subset>/<folder>/<file>` of an absolute path."""
    return relative_path("/".join(PurePosixPath(posix_path(path)).parts[-3:]), path)


def _check_sum(total: np.ndarray, sources: Sequence[np.ndarray]) -> None:
    """Refuse a mixture that is not the sum of its sources, all rounded to 16 bits and clipped."""
    summed = np.clip(np.sum(sources, axis=0, dtype=np.float64), -1.0, 1.0 - 2.0**-15)
    difference = float(np.abs(total - summed).max())
    if difference > (len(sources) + 2) * 2.0**-16:
        raise AudioFault("mixture is not the sum of its sources", f"differs by up to {difference:.5f}")
