"""The DNS Challenge 2020: its test sets, and speech or noisy-clean pairs on disk as training data.

`test_set/synthetic/{no_reverb,with_reverb}/{noisy,clean}/*_fileid_<n>.wav`, `test_set/real_recordings/*.wav`,
`blind_test_set/{noreverb,reverb,realrec}_fileid_<n>.wav`, `clean/*.wav`; noisy and clean are paired by the number at
the end of their names, as are the pairs that its synthesizer writes (`noisy/`, `clean/`). 16 kHz, mono.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, chunks, inspect_file
from metis_lightning.data.manifest.test_sets import TestSets, read_signals
from metis_lightning.data.media.storage import files_below, files_stamp, visible_in, walk
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial

_FILE_ID = re.compile(r"fileid_(\d+)$")
_SHARD_FILES = 500
_SUFFIXES = (".wav",)
_BLIND = ("noreverb", "reverb", "realrec")


def file_id(path: Path) -> int | None:
    """Return the number at the end of a file's name.

    >>> file_id(Path("clnsp126_snr15_tl-22_fileid_7.wav"))
    7
    """
    match = _FILE_ID.search(path.stem)
    return int(match[1]) if match else None


class DnsTests(TestSets):
    """`no_reverb`, `with_reverb`, `real_recordings`, and `blind_{noreverb,reverb,realrec}`, as far as they are there.

    Items have no transcript and no prompt; recordings and the blind set have no `target`.
    """

    task = "se"

    def __init__(self, root: Path) -> None:
        """List the files.

        Args:
            root: the repository, its `datasets`, or a folder like it.

        Raises:
            UserError: if no test set is there, or a noisy file has no clean one or the other way round.
        """
        self._files: dict[str, tuple[Path, Path | None]] = {}
        trials = []
        for test_set, pairs in _test_sets(Path(root)):
            for name, pair in pairs:
                trial = Trial(f"{test_set}_{name}", test_set)
                self._files[trial.id] = pair
                trials.append(trial)
        super().__init__(trials)

    def load_item(self, trial: Trial) -> TestItem:
        """Read the noisy recording as `mixture`, and the clean one as `target` where there is one."""
        noisy, clean = self._files[trial.id]
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker="",
            text=None,
            language="en",
            **read_signals(mixture=noisy, target=clean),
        )

    def other_names(self, trial: Trial) -> Sequence[str]:
        """Return the noisy file's name and the number at its end, alone and in a folder of the test set's name."""
        noisy, _ = self._files[trial.id]
        number = file_id(noisy)
        names = [noisy.stem, *([] if number is None else [f"fileid_{number}"])]
        return [*names, *(f"{trial.test_set}/{name}" for name in names)]


Named = list[tuple[str, tuple[Path, Path | None]]]


def _test_sets(root: Path) -> Iterator[tuple[str, Named]]:
    """Yield the name of each test set with its files: (name, (noisy, clean))."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of the DNS Challenge 2020")
    for name in ("no_reverb", "with_reverb"):
        for folder in _folders(root, f"synthetic/{name}"):
            pairs = pair_files(folder / "noisy", folder / "clean")
            if faults := [found for found in pairs if isinstance(found, Fault)]:
                raise UserError(f"{folder}: {len(faults)} faults, such as {faults[0].where}: {faults[0].detail}")
            yield name, [(f"fileid_{n}", (noisy, clean)) for n, noisy, clean in _only_pairs(pairs)]
    for folder in _folders(root, "real_recordings"):
        yield "real_recordings", [(_safe(path.stem), (path, None)) for path in _wavs(folder)]
    for folder in _folders(root, "blind_test_set"):
        for kind in _BLIND:
            names = (path for path in files_below(folder, _SUFFIXES) if path.stem.startswith(f"{kind}_fileid_"))
            found = {file_id(path): path for path in names}
            numbered = sorted((number, path) for number, path in found.items() if number is not None)
            yield f"blind_{kind}", [(f"fileid_{number}", (path, None)) for number, path in numbered]


def _folders(root: Path, name: str) -> list[Path]:
    places = ("", "test_set", "datasets", "datasets/test_set")
    return [path for path in (root / place / name for place in places) if path.is_dir()][:1]


Pair = tuple[int, Path, Path]


def pair_files(noisy: Path, clean: Path) -> list[Pair | Fault]:
    """Pair the wav files of two folders by the number at the end of their names, in its order.

    A file without a number, or whose number another has or no file of the other folder has, is a fault.
    """
    sides: list[dict[int, Path]] = []
    found: list[Pair | Fault] = []
    for folder in (noisy, clean):
        side: dict[int, Path] = {}
        sides.append(side)
        for path in _wavs(folder):
            number = file_id(path)
            if number is None:
                found.append(Fault(str(path), "no file id", "the name does not end with fileid_<n>"))
            elif number in side:
                found.append(Fault(str(path), "file id occurs twice", side[number].name))
            else:
                side[number] = path
    for number in sorted(sides[0].keys() | sides[1].keys()):
        first, second = (side.get(number) for side in sides)
        if first is not None and second is not None:
            found.append((number, first, second))
        else:
            there = first or second
            found.append(
                Fault(str(there), "missing pair", f"{'noisy without clean' if first else 'clean without noisy'}")
            )
    return found


def _only_pairs(found: Sequence[Pair | Fault]) -> list[Pair]:
    return [pair for pair in found if not isinstance(pair, Fault)]


@dataclass(frozen=True)
class DnsScan(CorpusScan):
    """Lists noisy-clean pairs, and clean speech that has no noisy folder beside it.

    root: folder at any level above `clean` and `noisy` folders.
    decode: decode all audio, which finds broken files; else only headers are read.
    """

    root: str
    decode: bool = True

    layout = "clean/*.wav, with noisy/*_fileid_<n>.wav beside it for pairs"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each folder of pairs, and for each 500 files of speech."""
        if not Path(self.root).is_dir():
            raise UserError(f"{self.root}: no such folder; --root is the folder of the corpus")
        found = []
        for clean in sorted(folder for folder, _ in walk(Path(self.root)) if folder.name == "clean"):
            name = clean.relative_to(self.root).as_posix()
            noisy, files = clean.parent / "noisy", files_below(clean, _SUFFIXES)
            if noisy.is_dir():
                found.append(Shard(f"{name}:pairs", files_stamp(*files, *_wavs(noisy))))
            else:
                pieces = enumerate(chunks(files, _SHARD_FILES))
                found += [Shard(f"{name}:{number}", files_stamp(*piece)) for number, piece in pieces]
        return found

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a piece's utterances."""
        name, _, piece = shard.name.rpartition(":")
        clean = Path(self.root) / name
        if piece != "pairs":
            files = files_below(clean, _SUFFIXES)
            yield from (self._row(path, None) for path in chunks(files, _SHARD_FILES)[int(piece)])
            return
        for found in pair_files(clean.parent / "noisy", clean):
            yield self._relative(found) if isinstance(found, Fault) else self._row(found[2], found[1])

    def _row(self, path: Path, noisy: Path | None) -> Row | Fault:
        found = inspect_file(path, self._name(path), self.decode)
        heard = found if noisy is None else inspect_file(noisy, self._name(noisy), self.decode)
        if isinstance(found, Fault):
            return found
        if isinstance(heard, Fault):
            return heard
        if found != heard:
            return Fault(self._name(path), "pair differs", f"clean {found}, noisy {heard}")
        where, stem = path.relative_to(self.root), (noisy or path).stem
        reader = re.search(r"reader_(\d+)", stem)
        return {
            # Names repeat in the folders of the two synthetic conditions.
            "id": _safe("-".join(where.with_name(stem).parts)),
            "path": where.as_posix(),
            "speaker": f"reader_{reader[1]}" if reader else _safe(stem),
            "text": "",
            "language": "en",
            "seconds": round(found.seconds, 4),
            "sample_rate": found.sample_rate,
            "channels": found.channels,
            "split": "test" if "test_set" in where.parts else "train",
            "source": f"DNS Challenge 2020 {where.parent.as_posix()}",
            **({} if noisy is None else {"heard": self._name(noisy)}),
        }

    def _relative(self, fault: Fault) -> Fault:
        return Fault(self._name(Path(fault.where)), fault.kind, fault.detail)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _wavs(folder: Path) -> list[Path]:
    return [path for path in visible_in(folder) if path.suffix.lower() in _SUFFIXES]


def _safe(name: str) -> str:
    """Replace what an id may not hold."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".")
