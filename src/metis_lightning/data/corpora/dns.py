"""Reads the DNS Challenge 2020: its test sets, and speech or noisy-clean pairs on disk as training data.

`test_set/synthetic/{no_reverb,with_reverb}/{noisy,clean}/*_fileid_<n>.wav`, `test_set/real_recordings/*.wav`,
`blind_test_set/{noreverb,reverb,realrec}_fileid_<n>.wav`, `clean/*.wav`; noisy and clean are paired by the number at
the end of their names, as are the pairs that its synthesizer writes (`noisy/`, `clean/`). 16 kHz, mono.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, inspect_file, manifest_row
from metis_lightning.data.manifest.test_sets import TestSets, read_signals
from metis_lightning.data.media.storage import files_below, files_stamp, require_folder, visible_in, walk
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial

_FILE_ID = re.compile(r"fileid_(\d+)$")
_SHARD_FILES = 500
_SUFFIXES = (".wav",)


@dataclass(frozen=True)
class DnsScan(CorpusScan):
    """Lists noisy-clean pairs at any level below `root`, and clean speech that has no noisy folder beside it."""

    root: str
    decode: bool = True
    layout = "clean/*.wav, with noisy/*_fileid_<n>.wav beside it for pairs"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each folder of pairs, and for each 500 files of speech."""
        require_folder(self.root)
        shards = []
        for clean in sorted(folder for folder, _ in walk(Path(self.root)) if folder.name == "clean"):
            noisy, files = clean.parent / "noisy", files_below(clean, _SUFFIXES)
            if noisy.is_dir():
                shards.append(Shard(f"{self._name(clean)}:pairs", files_stamp(*files, *_wavs(noisy))))
            else:
                shards += Shard.numbered(files, _SHARD_FILES, lambda path: [path], self._name(clean))
        return shards

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a piece's utterances."""
        name, _, piece = shard.name.rpartition(":")
        clean = Path(self.root) / name
        if piece != "pairs":
            yield from map(self._row, shard.of(files_below(clean, _SUFFIXES), _SHARD_FILES))
            return
        for pair in pair_files(clean.parent / "noisy", clean):
            if isinstance(pair, Fault):
                yield replace(pair, where=self._name(Path(pair.where)))
            else:
                yield self._row(pair[2], pair[1])

    def _row(self, path: Path, noisy: Path | None = None) -> Row | Fault:
        # Noisy and clean must have equal lengths and rates: they are used in time with each other.
        info = inspect_file(path, self._name(path), self.decode)
        other = info if noisy is None else inspect_file(noisy, self._name(noisy), self.decode)
        if isinstance(info, Fault):
            return info
        if isinstance(other, Fault):
            return other
        if info != other:
            return Fault(self._name(path), "pair differs", f"clean {info}, noisy {other}")
        where, stem = path.relative_to(self.root), (noisy or path).stem
        reader = re.search(r"reader_(\d+)", stem)
        return manifest_row(
            # Names repeat in the folders of the two synthetic conditions.
            _safe("-".join(where.with_name(stem).parts)),
            where.as_posix(),
            info,
            speaker=f"reader_{reader[1]}" if reader else _safe(stem),
            split="test" if "test_set" in where.parts else "train",
            source=f"DNS Challenge 2020 {where.parent.as_posix()}",
            **({} if noisy is None else {"heard": self._name(noisy)}),
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class DnsTests(TestSets):
    """`no_reverb`, `with_reverb`, `real_recordings` and `blind_{noreverb,reverb,realrec}`, as far as they are there."""

    task = "se"

    def __init__(self, root: Path) -> None:
        """List the files below the repository, its `datasets`, or the like; a UserError if none are there."""
        require_folder(root, "the DNS Challenge 2020")
        self._files: dict[str, tuple[Path, Path | None]] = {}
        trials = []
        for test_set, name, noisy, clean in _test_files(Path(root)):
            trials.append(Trial(f"{test_set}_{name}", test_set))
            self._files[trials[-1].id] = noisy, clean
        super().__init__(trials)

    def load_item(self, trial: Trial) -> TestItem:
        """Read the noisy recording as `mixture`, and the clean one as `target` where there is one."""
        noisy, clean = self._files[trial.id]
        signals = read_signals(mixture=noisy, target=clean)
        return TestItem(trial.id, trial.test_set, speaker="", text=None, language="en", **signals)

    def other_names(self, trial: Trial) -> Sequence[str]:
        """Return the noisy file's name and the number at its end, alone and in a folder of the test set's name."""
        noisy, _ = self._files[trial.id]
        number = file_id(noisy)
        names = [noisy.stem, *([] if number is None else [f"fileid_{number}"])]
        return [*names, *(f"{trial.test_set}/{name}" for name in names)]


def _test_files(root: Path) -> Iterator[tuple[str, str, Path, Path | None]]:
    for test_set in ("no_reverb", "with_reverb"):
        for folder in _find_folder(root, f"synthetic/{test_set}"):
            pairs = pair_files(folder / "noisy", folder / "clean")
            if faults := [pair for pair in pairs if isinstance(pair, Fault)]:
                raise UserError(f"{folder}: {len(faults)} faults, such as {faults[0].where}: {faults[0].detail}")
            for number, noisy, clean in (pair for pair in pairs if not isinstance(pair, Fault)):
                yield test_set, f"fileid_{number}", noisy, clean
    for folder in _find_folder(root, "real_recordings"):
        for path in _wavs(folder):
            yield "real_recordings", _safe(path.stem), path, None
    for folder in _find_folder(root, "blind_test_set"):
        numbers = ((path, file_id(path)) for path in files_below(folder, _SUFFIXES))
        numbered = sorted((number, path) for path, number in numbers if number is not None)
        for kind in ("noreverb", "reverb", "realrec"):
            chosen = {number: path for number, path in numbered if path.stem.startswith(f"{kind}_fileid_")}
            yield from ((f"blind_{kind}", f"fileid_{number}", path, None) for number, path in chosen.items())


def _find_folder(root: Path, name: str) -> list[Path]:
    """Return the folder of a name, alone, or nothing if it is at none of the places where the repository has it."""
    for place in ("", "test_set", "datasets", "datasets/test_set"):
        if (folder := root / place / name).is_dir():
            return [folder]
    return []


def pair_files(noisy: Path, clean: Path) -> list[tuple[int, Path, Path] | Fault]:
    """Pair the wav files of two folders by the number at the end of their names, in its order.

    A file without a number, or whose number another has or no file of the other folder has, is a fault.
    """
    pairs: list[tuple[int, Path, Path] | Fault] = []
    sides: list[dict[int, Path]] = [{}, {}]
    for folder, side in zip((noisy, clean), sides, strict=True):
        for path in _wavs(folder):
            number = file_id(path)
            if number is None:
                pairs.append(Fault(str(path), "no file id", "the name does not end with fileid_<n>"))
            elif number in side:
                pairs.append(Fault(str(path), "file id occurs twice", side[number].name))
            else:
                side[number] = path
    for number in sorted(sides[0].keys() | sides[1].keys()):
        first, second = (side.get(number) for side in sides)
        if first is not None and second is not None:
            pairs.append((number, first, second))
        else:
            missing = "noisy without clean" if first else "clean without noisy"
            pairs.append(Fault(str(first or second), "missing pair", missing))
    return pairs


def file_id(path: Path) -> int | None:
    """Return the number n at the end of a file's name, `…fileid_<n>.wav`; None if there is none."""
    match = _FILE_ID.search(path.stem)
    if match is None:
        return None
    return int(match[1])


def _wavs(folder: Path) -> list[Path]:
    return [path for path in visible_in(folder) if path.suffix.lower() in _SUFFIXES]


def _safe(name: str) -> str:
    # What is left is what an id may hold.
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".")
