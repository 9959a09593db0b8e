"""Lists Libri2Mix, Libri3Mix, …: as they lie on disk, or as mixtures made when they are read.

The layout is that of LibriMix's script: `wav{8k,16k}/{min,max}/metadata/mixture_<subset>_<mix>.csv`, and beside
`metadata/` the folders `<subset>/{s1,s2,…,mix_clean,mix_both,mix_single,noise}/`. Each source of a mixture is an
utterance, `ID_s1`, whose line names the mixture as `heard`.
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
from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, manifest_row
from metis_lightning.data.manifest.test_sets import MixtureSource
from metis_lightning.data.media.audio import audio_seconds, decode
from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import AudioInfo, inspect_audio
from metis_lightning.data.media.locations import parse_location, relative_path
from metis_lightning.data.media.mixdown import LIBRIMIX_RATE, MODES, Mixdown
from metis_lightning.data.media.storage import visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path

MIXES = ("mix_clean", "mix_both", "mix_single")
"""All voices; all voices and noise; the first voice and noise."""

_SHARD_LINES = 250
Line = Mapping[str, str]


@dataclass(frozen=True)
class Mixture:
    """Locations, as a manifest has them, of a mixture and of its sources, and their common length and rate in Hz."""

    mixture: object
    sources: Sequence[object]
    samples: int
    sample_rate: int


@dataclass(frozen=True)
class MixtureScan(CorpusScan):
    """Lists mixtures, one of `MIXES`, by csv files with a line for each, whether they are on disk or to be made.

    The folder `librispeech` gives the transcripts, and tells cut sources from whole ones; None leaves the texts empty.
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
        """Return a line's mixture; an AudioFault if it is no sound, a UserError if a file cannot be read."""

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 lines."""
        shards: list[Shard] = []
        for table in self.tables():

            def files(line: Line, table: Path = table) -> Sequence[Path]:
                # Of an odd line, which the scan reports, the table alone.
                try:
                    return [table, *self.files(line)]
                except (UserError, ValueError):
                    return [table]

            shards += Shard.numbered(read_table(table), _SHARD_LINES, files, str(table))
        return shards

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield the sources of a piece's mixtures."""
        table = Path(shard.name.rpartition(":")[0])
        # The subset of `mixture_train-100_mix_both` as of `libri2mix_train-clean-100` is train-100.
        subset = re.sub(r"^(mixture|libri\d+mix)_|_mix_(clean|both|single)$|-clean", "", table.stem)
        texts = None if self.librispeech is None else Transcripts(self.librispeech)
        for line in shard.of(read_table(table), _SHARD_LINES):
            where = f"{table.name}/{line['mixture_ID']}"
            try:
                yield from self._rows(line, subset, texts)
            except AudioFault as fault:
                yield Fault(where, fault.kind, fault.detail)
            except UserError as error:
                yield Fault(where, "unreadable mixture", str(error))
            except (ValueError, OverflowError) as error:
                yield Fault(where, "wrong field", str(error))

    def _rows(self, line: Line, subset: str, texts: Transcripts | None) -> Iterator[Row]:
        mixture, name = self.mixture(line, subset), line["mixture_ID"]
        if len(name.split("_")) < len(mixture.sources):
            raise AudioFault("wrong mixture id", f"{name} does not name {len(mixture.sources)} utterances")
        info = AudioInfo(mixture.samples / mixture.sample_rate, mixture.sample_rate, 1)
        split, corpus = "train" if subset.startswith("train") else subset, f"LibriMix {subset} {self.mix}"
        for number, path in enumerate(mixture.sources, start=1):
            source = MixtureSource(name, number)
            text, recording = ("", None) if texts is None else texts.find(source.utterance)
            row = manifest_row(
                source.id, path, info, speaker=source.speaker, text=text, split=split, source=corpus, license=LICENSE
            )
            row = {"id": source.id, "path": path, "heard": mixture.mixture} | row
            if recording is not None:
                # A sample is lost where the rate is converted.
                row["is_whole"] = mixture.samples + 2 > audio_seconds(recording) * mixture.sample_rate
            yield row


@dataclass(frozen=True)
class LibriMixScan(MixtureScan):
    """Lists mixtures on disk below a root such as `Libri2Mix/wav16k/min`; each must be the sum of its sources."""

    root: str = ""
    layout = "metadata/mixture_<subset>_<mix>.csv"

    def tables(self) -> Sequence[Path]:
        """Return the csv of each subset."""
        return sorted((Path(self.root) / "metadata").glob(f"mixture_*_{self.mix}.csv"))

    def files(self, line: Line) -> Sequence[Path]:
        """Return the wav files of a mixture."""
        return [Path(self.root) / path for path in _paths(line).values()]

    def mixture(self, line: Line, subset: str) -> Mixture:
        """Read the wav files and compare."""
        paths, waves = _paths(line), {}
        # The csv does not state the rate, but the name of the folder does.
        folders = (re.fullmatch(r"wav(\d+)k", part) for part in reversed(Path(self.root).resolve().parts))
        rate = next((int(match[1]) * 1000 for match in folders if match), None)
        if rate is None:
            raise UserError(f"{self.root}: give the folder that holds metadata/, such as Libri2Mix/wav16k/min")
        for column, path in paths.items():
            file = Path(self.root) / path
            if not file.is_file():
                raise AudioFault("missing file", path)
            data = file.read_bytes()
            try:
                info = inspect_audio(data)
            except AudioFault as fault:
                raise AudioFault(fault.kind, f"{path} {fault.detail}".strip()) from fault
            if info.sample_rate != rate:
                raise AudioFault("wrong sample rate", f"{path}: {info.sample_rate} Hz in a folder of {rate} Hz")
            waves[column] = decode(data, path)[0][:, 0]
        total = waves.pop("mixture_path")
        listed = round(float(line["length"]))
        if lengths := [f"{paths[name]}: {len(wave)}" for name, wave in waves.items() if len(wave) != len(total)]:
            raise AudioFault("wrong length", f"{', '.join(lengths)} samples; the mixture has {len(total)}")
        if len(total) != listed:
            raise AudioFault("wrong length", f"{len(total)} samples, the csv says {listed}")
        # All files were rounded to 16 bits, and the sum clipped.
        summed = np.clip(np.sum(list(waves.values()), axis=0, dtype=np.float64), -1.0, 1.0 - 2.0**-15)
        difference = float(np.abs(total - summed).max())
        if difference > (len(waves) + 2) * 2.0**-16:
            raise AudioFault("mixture is not the sum of its sources", f"differs by up to {difference:.5f}")
        sources = [path for column, path in paths.items() if column.startswith("source_")]
        return Mixture(paths["mixture_path"], sources, len(total), rate)


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the lines of a csv file of LibriMix; a UserError if it is none, or a line lacks a field."""
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
        raise UserError(f"{path}: not a list of LibriMix's mixtures: no lines, or no mixture_ID and source_1_path")
    for number, line in enumerate(lines, start=2):
        if None in line.values() or None in line:
            raise UserError(f"{path}:{number}: expected {len(columns)} fields; the file is cut or damaged")
    return lines


def _paths(line: Line) -> dict[str, str]:
    paths = {column: posix_path(path) for column, path in line.items() if column.endswith("_path")}
    for column, path in paths.items():
        # Absolute, from the machine that made the corpus, which may have moved: <subset>/<folder>/<file> are left.
        paths[column] = relative_path("/".join(PurePosixPath(path).parts[-3:]), path)
    return paths


@dataclass(frozen=True)
class OnTheFlyMixtureScan(MixtureScan):
    """Lists mixtures that are made when they are read, by the published metadata; no copy of them is on disk.

    root: folder (LibriMix's `storage_dir`) that holds LibriSpeech (`speech`) and the WHAM! noise (`noise`).
    metadata: csv files such as `metadata/Libri2Mix/libri2mix_test-clean.csv`, or their folder.
    sample_rate, mode: of the mixtures, 8000 or 16000 Hz, "min" or "max".
    """

    root: str = ""
    metadata: tuple[Path, ...] = ()
    speech: str = "LibriSpeech"
    noise: str = "wham_noise"
    sample_rate: int = LIBRIMIX_RATE
    mode: str = "min"
    layout = "csv files such as libri2mix_test-clean.csv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES or self.sample_rate not in (8000, LIBRIMIX_RATE):
            raise UserError(
                f"mode {self.mode!r} at {self.sample_rate} Hz: LibriMix has min and max at 8000 and 16000 Hz"
            )

    def tables(self) -> Sequence[Path]:
        """Return the csv files; those that end with `_info.csv` tell of speakers and are left out."""
        paths: list[Path] = []
        for path in self.metadata:
            paths += [p for p in visible_in(path) if p.suffix == ".csv"] if path.is_dir() else [path]
        return [path for path in paths if not path.stem.endswith("_info")]

    def files(self, line: Line) -> Sequence[Path]:
        """Return the flac files and the noise of a mixture."""
        rule = self._rule(line)
        parts = [*rule["mix"], rule["noise"]] if rule["noise"] else rule["mix"]
        return [Path(self.root) / path for path, _ in parts]

    def mixture(self, line: Line, subset: str) -> Mixture:
        """Make the mixture once, to see that it can be made and how long it is."""
        rule = self._rule(line)
        count = len(rule["mix"])
        take = {"mix_clean": range(count), "mix_both": range(count + 1), "mix_single": (0, count)}[self.mix]
        mixture = {**rule, "take": list(take)}
        mixdown = parse_location(mixture, self.root, line["mixture_ID"])
        if not isinstance(mixdown, Mixdown):
            raise TypeError("a rule is a mixdown")
        sources = [{**rule, "take": [number]} for number in range(1 if self.mix == "mix_single" else count)]
        return Mixture(mixture, sources, len(mixdown.frames()[0]), self.sample_rate)

    def _rule(self, line: Line) -> Row:
        columns = {name: self.speech for name in line if re.fullmatch(r"source_\d+_path", name)}
        # Without noise in the sum, its file is not needed: it is never shorter than the longest voice.
        if self.mix != "mix_clean":
            columns["noise_path"] = self.noise
        parts = {}
        for name, folder in columns.items():
            path = relative_path(posix_path(line[name]), line["mixture_ID"])
            parts[name] = [f"{folder}/{path}", float(line[name.replace("_path", "_gain")])]
        noise = parts.pop("noise_path", None)
        return {"mix": list(parts.values()), "noise": noise, "rate": self.sample_rate, "mode": self.mode}
