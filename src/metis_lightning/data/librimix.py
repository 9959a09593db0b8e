"""Libri2Mix, Libri3Mix, …: mixtures on disk, or made from LibriSpeech, WHAM! and the published metadata when read.

On disk, as its script writes it: `wav{8k,16k}/{min,max}/metadata/mixture_<subset>_<mix>.csv` and beside `metadata/` the
folders `<subset>/{s1,s2,…,mix_clean,mix_both,mix_single,noise}/`. Paths in the csv are absolute, from the machine that
made them; only their last three parts are used, so a corpus may move. Each source of a mixture is an utterance,
`ID_s1`, which is `heard` in the mixture.
"""

from __future__ import annotations

import csv
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from metis_lightning.data.audio import decode
from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.enrollment import (
    MixtureSource,
    draw_enrollments,
    parse_source,
    read_enrollments,
    write_enrollments,
)
from metis_lightning.data.inspection import OddAudio, inspect_audio
from metis_lightning.data.librispeech import LICENSE, Transcripts
from metis_lightning.data.locations import parse_location, relative_path
from metis_lightning.data.manifest import check_manifest, read_manifest
from metis_lightning.data.mixdown import MODES, RATE
from metis_lightning.data.scan import CorpusScan, Fault, Row, Shard, chunks
from metis_lightning.data.storage import stamp_of
from metis_lightning.data.testsets import TestSets
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial

MIXES = ("mix_clean", "mix_both", "mix_single")
"""All voices; all voices and noise; the first voice and noise."""

_SHARD_ROWS = 250

Line = Mapping[str, str]


@dataclass(frozen=True)
class MixtureScan(CorpusScan):
    """What mixtures on disk and mixtures to be made have in common: a csv with a line for each.

    mix: one of `MIXES`.
    librispeech: LibriSpeech's folder, for the transcripts; None leaves them empty.
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
            OddAudio: if it is not sound.
            UserError: if a file cannot be read.
        """

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 lines."""
        found = []
        for table in self.tables():
            for number, lines in enumerate(chunks(read_table(table), _SHARD_ROWS)):
                stamp = stamp_of(table, *(file for line in lines for file in self.files(line)))
                found.append(Shard(f"{table}:{number}", stamp))
        return found

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield the sources of a piece's mixtures."""
        name, _, number = shard.name.rpartition(":")
        start = int(number) * _SHARD_ROWS
        texts = None if self.librispeech is None else Transcripts(self.librispeech)
        for line in read_table(Path(name))[start : start + _SHARD_ROWS]:
            where = f"{Path(name).name}/{line['mixture_ID']}"
            try:
                yield from self._rows(line, _subset(Path(name)), texts)
            except OddAudio as odd:
                yield Fault(where, odd.kind, odd.detail)
            except UserError as error:
                yield Fault(where, "unreadable mixture", str(error))

    def _rows(self, line: Line, subset: str, texts: Transcripts | None) -> Iterator[Row]:
        made, utterances = self.mixture(line, subset), line["mixture_ID"].split("_")
        if len(utterances) < len(made.sources):
            raise OddAudio("wrong mixture id", f"{line['mixture_ID']} does not name {len(made.sources)} utterances")
        for number, path in enumerate(made.sources, start=1):
            source = MixtureSource(line["mixture_ID"], number)
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
            raise OddAudio("wrong length", f"{', '.join(lengths)} samples; the mixture has {len(total)}")
        if len(total) != expected:
            raise OddAudio("wrong length", f"{len(total)} samples, the csv says {expected}")
        _check_sum(total, list(waves.values()))
        return Mixture(paths["mixture_path"], [paths[name] for name in sources], len(total), self._rate())

    def _wave(self, path: str) -> np.ndarray:
        file = Path(self.root) / path
        if not file.is_file():
            raise OddAudio("missing file", path)
        data = file.read_bytes()
        try:
            found = inspect_audio(data)
        except OddAudio as odd:
            raise OddAudio(odd.kind, f"{path} {odd.detail}".strip()) from odd
        if found.sample_rate != self._rate():
            raise OddAudio("wrong sample rate", f"{path}: {found.sample_rate} Hz in a folder of {self._rate()} Hz")
        return decode(data, path)[0][:, 0]

    def _rate(self) -> int:
        """Return the sample rate that the folder's name states."""
        for part in reversed(Path(self.root).resolve().parts):
            if match := re.fullmatch(r"wav(\d+)k", part):
                return int(match[1]) * 1000
        raise UserError(f"{self.root}: give the folder that holds metadata/, such as Libri2Mix/wav16k/min")


@dataclass(frozen=True)
class MadeMixtureScan(MixtureScan):
    """Lists mixtures that are made when they are read, by the published metadata; no copy of them is on disk.

    root: folder (LibriMix's `storage_dir`) that holds LibriSpeech and the WHAM! noise.
    metadata: csv files such as `metadata/Libri2Mix/libri2mix_test-clean.csv`, or their folder.
    speech, noise: folders below `root`.
    sample_rate: of the mixtures, 8000 or 16000 Hz.
    mode: "min" or "max".
    """

    root: str = ""
    metadata: tuple[Path, ...] = ()
    speech: str = "LibriSpeech"
    noise: str = "wham_noise"
    sample_rate: int = RATE
    mode: str = "min"

    layout = "csv files such as libri2mix_test-clean.csv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES or self.sample_rate not in (8000, RATE):
            raise UserError(
                f"mode {self.mode!r} at {self.sample_rate} Hz: LibriMix has min and max at 8000 and 16000 Hz"
            )

    def tables(self) -> Sequence[Path]:
        """Return the csv files; those that end with `_info.csv` tell of speakers and are left out."""
        found = [file for path in self.metadata for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
        return [path for path in found if not path.stem.endswith("_info")]

    def files(self, line: Line) -> Sequence[Path]:
        """Return the flac files and the noise of a mixture."""
        rule = self._rule(line)
        parts = [*rule["mix"], *([rule["noise"]] if rule["noise"] else [])]
        return [Path(self.root) / path for path, _ in parts]

    def mixture(self, line: Line, subset: str) -> Mixture:
        """Make the mixture once, to see that it can be made and how long it is."""
        rule = self._rule(line)
        count = len(rule["mix"])
        every = {"mix_clean": range(count), "mix_both": range(count + 1), "mix_single": (0, count)}[self.mix]
        mixture = {**rule, "take": list(every)}
        sources = [{**rule, "take": [number]} for number in (every if self.mix == "mix_single" else range(count))]
        made = parse_location(mixture, self.root, line["mixture_ID"])
        if isinstance(made, Path):
            raise TypeError("a rule is no path")
        samples = len(made.frames()[0])
        return Mixture(mixture, sources[:1] if self.mix == "mix_single" else sources, samples, self.sample_rate)

    def _rule(self, line: Line) -> Row:
        where = line["mixture_ID"]
        columns = [name for name in line if re.fullmatch(r"source_\d+_path", name)]
        parts = [
            [f"{self.speech}/{relative_path(line[name], where)}", float(line[name.replace("_path", "_gain")])]
            for name in columns
        ]
        # Without noise in the sum, its file is not needed: it is never shorter than the longest voice.
        noisy = self.mix != "mix_clean"
        noise = (
            [f"{self.noise}/{relative_path(line['noise_path'], where)}", float(line["noise_gain"])] if noisy else None
        )
        return {"mix": parts, "noise": noise, "rate": self.sample_rate, "mode": self.mode}


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the lines of one of LibriMix's csv files.

    Raises:
        UserError: if there is none, it has no mixtures' columns, or a line lacks a field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such csv file")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
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
    return relative_path("/".join(PurePosixPath(path).parts[-3:]), path)


def _check_sum(total: np.ndarray, sources: Sequence[np.ndarray]) -> None:
    """Refuse a mixture that is not the sum of its sources, all rounded to 16 bits and clipped."""
    summed = np.clip(np.sum(sources, axis=0, dtype=np.float64), -1.0, 1.0 - 2.0**-15)
    difference = float(np.abs(total - summed).max())
    if difference > (len(sources) + 2) * 2.0**-16:
        raise OddAudio("mixture is not the sum of its sources", f"differs by up to {difference:.5f}")


class LibriMixTests(TestSets):
    """Target speaker extraction from LibriMix: every source of every mixture of a prepared manifest is a target."""

    def __init__(self, root: Path, manifest: Path | None = None, enrollment: Path | None = None) -> None:
        """Read the manifest and the enrollment list.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare librimix`; `librimix.jsonl` in `root` by default.
            enrollment: a list `map_mixture2enrollment`. By default one is drawn and written beside the manifest as
                `librimix.map_mixture2enrollment`, which later calls read.

        Raises:
            UserError: if a file is missing or wrong, or the list names what the manifest lacks.
        """
        manifest = Path(root) / "librimix.jsonl" if manifest is None else Path(manifest)
        check_manifest(manifest)
        self._corpus = SpeechCorpus((u for u in read_manifest(manifest, str(root)) if u.split != "train"), cache=False)
        sources = {parse_source(utterance.id): utterance.split for utterance in self._corpus.utterances}
        listed = manifest.with_suffix(".map_mixture2enrollment") if enrollment is None else enrollment
        if enrollment is None and not listed.is_file():
            write_enrollments(listed, draw_enrollments(sources))
        enrolled = read_enrollments(listed)
        if unknown := [target.id for target in sources if enrolled.get(target) not in sources]:
            raise UserError(f"{listed}: no enrollment in {manifest} for {len(unknown)} targets, such as {unknown[0]}")
        super().__init__(
            Trial(target.id, f"librimix-{split}", target=target.id, enrollment=enrolled[target].id)
            for target, split in sources.items()
        )

    def load_item(self, trial: Trial) -> TestItem:
        """Read mixture, target and enrollment; `interferer` is the sum of the other voices, without noise."""
        corpus, source = self._corpus, parse_source(trial.target)
        index = corpus.index_of(trial.target)
        utterance, others = corpus.utterances[index], self._others(source)
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=utterance.speaker,
            text=utterance.text or None,
            language=utterance.language,
            mixture=corpus.heard(index),
            target=corpus.wave(index),
            interferer=torch.stack([corpus.wave(other) for other in others]).sum(0) if others else None,
            enrollment=corpus.wave(corpus.index_of(trial.enrollment)),
        )

    def _others(self, source: MixtureSource) -> list[int]:
        numbers = range(1, len(source.mixture.split("_")) + 1)
        named = (MixtureSource(source.mixture, number).id for number in numbers if number != source.number)
        return [self._corpus.index_of(name) for name in named if name in self._corpus]
