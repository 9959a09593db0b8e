"""The test sets of a corpus, found by its name: whatever `TestSets` its modules hold. Nothing is registered.

What a test set holds: which variant of a corpus it is, in clear, and hashes of its texts and of its audio.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from tqdm import tqdm

from metis_lightning.data.manifest.test_sets import TestSets
from metis_lightning.errors import UserError
from metis_lightning.evaluate.run.tasks import is_for
from metis_lightning.files import sha256_of
from metis_lightning.task_table import TASKS
from metis_lightning.types import AudioLocation, TestItem, Trial

_CORPORA = "metis_lightning.data.corpora"


@dataclass(frozen=True)
class TestSet:
    """One fixed list of trials, and what reads their audio, with the options that it was made of."""

    __test__ = False  # not a pytest class

    name: str
    trials: tuple[Trial, ...]
    reader: TestSets
    options: Mapping[str, Any] = field(default_factory=dict)


def find_test_sets(data: str, root: Path | None, task: str, options: Sequence[str] = ()) -> list[TestSet]:
    """Return the test sets of a corpus that are for a task, in the order of their files.

    Args:
        data: a corpus by the name of its file in `metis_lightning/data/` (`starter`; also `starter_tests.py` is looked
            into), or a module or class of one's own by its full name.
        root: the corpus's folder; None where it has a default.
        task: what is evaluated.
        options: further arguments of the readers, NAME=VALUE, such as `manifest=libri3mix.jsonl`.

    Raises:
        UserError: there is no such corpus, it needs a root or takes no such option, or has no test set for the task.
    """
    kinds = _classes(data)
    # A reader that is for one task says so before it reads anything.
    said = {kind: getattr(kind, "task", "") for kind in kinds}
    given = [*([] if root is None else [f"root={root}"]), *options]
    readers = [_read(kind, data, given) for kind in kinds if not said[kind] or is_for(task, said[kind])]
    listed = [(reader, name, chosen) for reader, chosen in readers for name in reader.test_sets()]
    found = [TestSet(name, tuple(reader.load_trials(name)), reader, chosen) for reader, name, chosen in listed]
    serving = [test_set for test_set in found if is_for(task, test_set.trials[0].task)]
    if not serving:
        served = {*filter(None, said.values()), *(test_set.trials[0].task for test_set in found)}
        tasks = [name for name in TASKS if any(is_for(name, each) for each in served)]
        own = sorted(served - {"", *TASKS})
        raise UserError(f"--task {task}: choose one of {', '.join([*tasks, *own])}, for which {data} has test sets")
    return serving


def choose(test_sets: Sequence[TestSet], names: Sequence[str] | None, data: str) -> list[TestSet]:
    """Return the test sets of these names, all by default.

    Raises:
        UserError: there is none of a name.
    """
    by_name = {test_set.name: test_set for test_set in test_sets}
    for name in names or ():
        if name not in by_name:
            raise UserError(
                f"--test-sets: no test set {name!r} in {data} for this task; choose from {', '.join(by_name)}"
            )
    return [by_name[name] for name in names or by_name]


def _classes(data: str) -> list[type[TestSets]]:
    """Return the readers that a corpus's modules define.

    Raises:
        UserError: there is none.
    """
    found = [kind for module in _modules(data) for kind in _readers_in(module)]
    own = data.rpartition(".")[2]
    named = [kind for kind in found if kind.__name__ == own]
    if not found:
        raise UserError(
            f"--data {data}: no corpus with test sets; give the name of its file in metis_lightning/data/ (starter, "
            "...), or the full name of a class of your own that is a TestSets"
        )
    return named or found


def _modules(data: str) -> Iterator[ModuleType]:
    """Import the modules that a name may mean."""
    ours = [f"{_CORPORA}.{data}", f"{_CORPORA}.{data}_tests"] if data.isidentifier() else []
    found = [name for name in ours if _exists(name)]
    for name in found or filter(_exists, [data, data.rpartition(".")[0]]):
        yield import_module(name)


def _exists(name: str) -> bool:
    try:
        # A class within a module is looked for as a module too: its parent is no package then.
        return bool(name) and find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _readers_in(module: ModuleType) -> list[type[TestSets]]:
    """Return the concrete readers that a module itself defines, in its order."""
    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, TestSets)
        and not inspect.isabstract(kind)
        and kind.__module__ == module.__name__
    ]


def _read(kind: type[TestSets], data: str, given: Sequence[str]) -> tuple[TestSets, dict[str, Any]]:
    """Make a reader of arguments NAME=VALUE, and return it with all its arguments.

    Raises:
        UserError: it needs a root and there is none, or an argument is not one of its own.
    """
    parser = ArgumentParser(exit_on_error=False)
    known = parser.add_class_arguments(kind, "reader")
    needed = [name for name, each in inspect.signature(kind).parameters.items() if each.default is each.empty]
    if missing := [name for name in needed if not any(text.startswith(f"{name}=") for text in given)]:
        raise UserError(
            f"--data {data}: give --root, the corpus's folder"
            if missing == ["root"]
            else f"--data {data}: give --data-options {missing[0]}=VALUE"
        )
    try:
        config = parser.parse_args([f"--reader.{text}" for text in given])
    except ArgumentError as error:
        names = ", ".join(name.removeprefix("reader.") for name in known)
        raise UserError(f"--data-options: {error}; {data} takes {names} as NAME=VALUE") from error
    chosen = vars(config).get("reader")
    reader: TestSets = parser.instantiate_classes(config).reader
    return reader, {} if chosen is None else dict(vars(chosen))


SIGNALS = ("mixture", "target", "interferer", "enrollment")
"""The signals of an item, by their fields."""

Digest = Callable[[AudioLocation], str]


def contents(test_sets: Iterable[TestSet]) -> dict[str, dict[str, Any]]:
    """Return what tells each test set from any other, by name. All items are read for it.

    Beside the options of the reader, and what it says of the corpus's variant: the number of items, the rates of their
    signals in Hz, the samples of all of them, and SHA-256s of the lists, of the texts, and of the audio. The audio's is
    of the files that it comes from, since what decoders and mixers make of them differs in the last bits between
    machines; where a reader does not name them, of the samples.

    Raises:
        UserError: an item cannot be read.
    """
    digest: Digest = cache(_digest)
    return {each.name: _content(each, digest) for each in test_sets}


def _content(test_set: TestSet, digest: Digest) -> dict[str, Any]:
    trials, texts, audio = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    rates: set[int] = set()
    samples = 0
    for trial in tqdm(test_set.trials, desc=f"read {test_set.name}", unit="utt", delay=2, leave=False, disable=None):
        item = test_set.reader.load_item(trial)
        recorded = {name: recording for name in SIGNALS if (recording := item.recording(name)) is not None}
        rates |= {recording.sample_rate for recording in recorded.values()}
        samples += sum(recording.wave.numel() for recording in recorded.values())
        trials.update(_line([trial.id, trial.target, trial.interferer, trial.enrollment, trial.snr_db, trial.task]))
        texts.update(_line([item.id, item.speaker, item.text, item.language, item.prompt_text, item.is_transcribed]))
        sizes = {name: [recording.sample_rate, recording.wave.numel()] for name, recording in recorded.items()}
        audio.update(_line([item.id, sizes, _heard(item, digest)]))
    return {
        "reader": type(test_set.reader).__name__,
        **{name: _plain(value) for name, value in test_set.options.items() if _is_said(name, value)},
        **test_set.reader.facts(test_set.name),
        "items": len(test_set.trials),
        "sample_rates": " ".join(map(str, sorted(rates))),
        "samples": samples,
        "trials": trials.hexdigest(),
        "texts": texts.hexdigest(),
        "audio": audio.hexdigest(),
    }


def _heard(item: TestItem, digest: Digest) -> list[str]:
    """Return what an item's signals and features are made of."""
    if item.sources:
        return [digest(location) for location in item.sources]
    recorded = [item.recording(name) for name in SIGNALS]
    waves = [*(recording.wave for recording in recorded if recording is not None)]
    waves += [] if item.features is None else [item.features]
    return [hashlib.sha256(wave.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for wave in waves]


def _digest(location: AudioLocation) -> str:
    return sha256_of(location) if isinstance(location, Path) else location.digest()


def _is_said(name: str, value: object) -> bool:
    """Tell whether an option says more than where a corpus or a list lies; what is in them is in the hashes."""
    return not (name == "root" or value is None or isinstance(value, Path))


def _plain(value: object) -> object:
    """Return an option's value as JSON has it."""
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _line(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode() + b"\n"
