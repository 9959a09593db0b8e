"""The test sets of a corpus: found by its name, described by their content, and exported for other tools.

A corpus has whatever `TestSets` its modules hold; nothing is registered.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jsonargparse import ArgumentError, ArgumentParser

from metis_lightning.data.manifest.records import SAFE_ID
from metis_lightning.data.manifest.test_sets import TestSets
from metis_lightning.errors import UserError, nearest
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.files import atomic_path, sha256_of
from metis_lightning.progress import tracked
from metis_lightning.task_table import TASKS, task_named
from metis_lightning.types import AudioLocation, TestItem, Trial

_CORPORA = "metis_lightning.data.corpora"
# The signals of an item, by their fields.
SIGNALS = ("mixture", "target", "interferer", "enrollment")
LIST = "list.jsonl"


@dataclass(frozen=True)
class TestSet:
    """The first or all trials of a list of `size`, and what reads their audio, with the options that it was made of."""

    __test__ = False  # not a pytest class
    name: str
    trials: tuple[Trial, ...]
    reader: TestSets
    options: Mapping[str, Any]
    size: int


def chosen_test_sets(options: EvaluateOptions) -> tuple[list[TestSet], set[str]]:
    """Return the test sets that are named, cut to `limit`, and all ids of the task's. A `UserError` for a mistake."""
    all_sets = find_test_sets(options.data, options.root, options.task, options.data_options)
    by_name = {test_set.name: test_set for test_set in all_sets}
    if unknown := [name for name in options.test_sets or () if name not in by_name]:
        choices = f"{', '.join(by_name)}{nearest(unknown[0], by_name)}"
        raise UserError(
            f"--test-sets: no test set {unknown[0]!r} in {options.data} for this task; choose from {choices}"
        )
    whole = [by_name[name] for name in options.test_sets or by_name]
    # Audio is stored and matched by the ids.
    seen: dict[str, str] = {}
    for test_set in whole:
        name = test_set.name
        for trial in test_set.trials:
            if not SAFE_ID.fullmatch(trial.id):
                raise UserError(
                    f"test set {name}: the id {trial.id!r} may hold only A-Z a-z 0-9 . _ - and may not start with a "
                    "dot, since audio is stored under it"
                )
            if trial.id in seen:
                raise UserError(f"test set {name}: the id {trial.id!r} occurs already in {seen[trial.id]}")
            seen[trial.id] = name
    chosen = [replace(test_set, trials=test_set.trials[: options.limit]) for test_set in whole]
    return chosen, {trial.id for test_set in all_sets for trial in test_set.trials}


def find_test_sets(data: str, root: Path | None, task: str, options: Sequence[str] = ()) -> list[TestSet]:
    """Return the test sets of a corpus that are for a task, in the order of their files.

    `data` is the name of a file in `metis_lightning/data/corpora`, `starter` of `starter_tests`, or of a
    module or class of one's own; `options` are arguments of its readers beside `root`, NAME=VALUE. A `UserError` if
    there is no such corpus, it needs a root or takes no such option, or has no test set for the task.
    """
    classes = _classes(data)
    arguments = [*([] if root is None else [f"root={root}"]), *options]
    test_sets = []
    for kind in classes:
        # A reader that is for one task says so before it reads anything.
        if not kind.task or _is_for(task, kind.task):
            reader, chosen = _make_reader(kind, data, arguments)
            lists = {name: tuple(reader.load_trials(name)) for name in reader.test_sets}
            test_sets += [TestSet(name, trials, reader, chosen, len(trials)) for name, trials in lists.items()]
    # Other lists of the corpus are for other tasks.
    serving = [test_set for test_set in test_sets if _is_for(task, test_set.trials[0].task)]
    if not serving:
        listed = [test_set.trials[0].task for test_set in test_sets]
        served = {*(kind.task for kind in classes if kind.task), *listed}
        choices = [name for name in TASKS if any(_is_for(name, each) for each in served)]
        choices += sorted(served - {"", *TASKS})
        raise UserError(
            f"--task {task}: choose one of {', '.join(choices)}, for which {data} has test sets{nearest(task, choices)}"
        )
    return serving


def _is_for(task: str, listed: str) -> bool:
    """Return whether a test list is for a task, given the task that it names."""
    # One that names none is for any task that the table has, but not for one that covers others.
    covers = task_named(task).covers
    return listed in (task, *covers) or (not listed and task in TASKS and not covers)


def _classes(data: str) -> list[type[TestSets]]:
    """Return the concrete readers that a corpus's modules define, in their order; or the one that is named."""
    # A module of test sets alone can do without Lightning, which its corpus's DataModule needs.
    ours = [f"{_CORPORA}.{data}_tests", f"{_CORPORA}.{data}"] if data.isidentifier() else []
    names = list(filter(_exists, ours))[:1] or list(filter(_exists, [data, data.rpartition(".")[0]]))
    classes = []
    for module in map(import_module, names):
        readers = [kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, TestSets)]
        # What the module imports from elsewhere is not its own.
        classes += [kind for kind in readers if kind.__module__ == module.__name__ and not inspect.isabstract(kind)]
    if not classes:
        files = (file for place in import_module(_CORPORA).__path__ for file in Path(place).glob("*.py"))
        corpora = sorted(
            {file.stem.removesuffix("_tests") for file in files if "(TestSets)" in file.read_text("utf-8")}
        )
        raise UserError(
            f"--data {data}: no corpus with test sets; there are {', '.join(corpora)}, or give the full name of a "
            f"class of your own that is a TestSets{nearest(data, corpora)}"
        )
    # The full name of a class stands for it alone, that of its module for all in it.
    own = data.rpartition(".")[2]
    return [kind for kind in classes if kind.__name__ == own] or classes


def _exists(name: str) -> bool:
    try:
        # A class within a module is looked for as a module too: its parent is no package then.
        return bool(name) and find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _make_reader(kind: type[TestSets], data: str, arguments: Sequence[str]) -> tuple[TestSets, dict[str, Any]]:
    """Make a reader of arguments NAME=VALUE, and return it with all its arguments."""
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(kind, "reader")
    required = [name for name, each in inspect.signature(kind).parameters.items() if each.default is each.empty]
    if missing := [name for name in required if not any(text.startswith(f"{name}=") for text in arguments)]:
        advice = "--root, the corpus's folder" if missing == ["root"] else f"--data-options {missing[0]}=VALUE"
        raise UserError(f"--data {data}: give {advice}")
    try:
        config = parser.parse_args([f"--reader.{text}" for text in arguments])
    except ArgumentError as error:
        accepted = ", ".join(name.removeprefix("reader.") for name in names)
        raise UserError(f"--data-options: {error}; {data} takes {accepted} as NAME=VALUE") from error
    chosen = vars(config).get("reader")
    reader: TestSets = parser.instantiate(config).reader
    return reader, {} if chosen is None else dict(vars(chosen))


def contents(test_sets: Iterable[TestSet]) -> dict[str, dict[str, Any]]:
    """Return what tells each test set from any other, by name. A `UserError` if an item cannot be read."""
    # Items of several test sets share their files.
    digest = cache(lambda location: sha256_of(location) if isinstance(location, Path) else location.digest())
    return {each.name: _content(each, digest) for each in test_sets}


def _content(test_set: TestSet, digest: Callable[[AudioLocation], str]) -> dict[str, Any]:
    lines: dict[str, list[list[object]]] = {"trials": [], "texts": [], "audio": []}
    rates: set[int] = set()
    samples = 0
    for trial in tracked(test_set.trials, f"read {test_set.name}", "utterances"):
        item = test_set.reader.load_item(trial)
        recorded = {name: recording for name in SIGNALS if (recording := item.recording(name)) is not None}
        rates |= {recording.sample_rate for recording in recorded.values()}
        samples += sum(recording.wave.numel() for recording in recorded.values())
        lines["trials"].append([trial.id, trial.target, trial.interferer, trial.enrollment, trial.snr_db, trial.task])
        lines["texts"].append([item.id, item.speaker, item.text, item.language, item.prompt_text, item.is_transcribed])
        sizes = {name: [recording.sample_rate, recording.wave.numel()] for name, recording in recorded.items()}
        # Of the files, where they are known: what decoders and mixers make of them differs between machines.
        hashes = [digest(location) for location in item.sources]
        if not hashes:
            waves = [recording.wave for recording in recorded.values()]
            waves += [] if item.features is None else [item.features]
            hashes = [hashlib.sha256(wave.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for wave in waves]
        lines["audio"].append([item.id, sizes, hashes])
    encoded = {name: [json.dumps(line, sort_keys=True) + "\n" for line in part] for name, part in lines.items()}
    # Where a corpus or a list lies says nothing: what is in it is in the hashes.
    variant = {
        name: value if isinstance(value, (str, int, float, bool)) else str(value)
        for name, value in test_set.options.items()
        if name != "root" and value is not None and not isinstance(value, Path)
    }
    return {
        "reader": type(test_set.reader).__name__,
        **variant,
        **test_set.reader.facts(test_set.name),
        "items": len(test_set.trials),
        "sample_rates": " ".join(map(str, sorted(rates))),
        "samples": samples,
        **{name: hashlib.sha256("".join(part).encode()).hexdigest() for name, part in encoded.items()},
    }


def export_test_sets(test_sets: Sequence[TestSet], folder: Path) -> None:
    """Write the items of test sets by their ids, or raise `UserError` if one cannot be read or written.

    Each test set has a folder: `SIGNAL/ID.wav`, at its own rate, `list.jsonl`, and Kaldi's `SIGNAL.scp`, `text` and
    `utt2spk`.
    """
    for test_set in test_sets:
        try:
            _export(test_set, folder / test_set.name)
        except OSError as error:
            raise UserError(f"--export {folder}: cannot be written ({error}); check the folder") from error
        print(f"{test_set.name}: {len(test_set.trials)} items, listed in {folder / test_set.name / LIST}")


def _export(test_set: TestSet, folder: Path) -> None:
    lines = []
    for trial in tracked(test_set.trials, f"export {test_set.name}", "utterances"):
        item = test_set.reader.load_item(trial)
        line = {
            "id": item.id,
            "test_set": item.test_set,
            "task": trial.task,
            "speaker": item.speaker,
            "text": item.text or "",
            "language": item.language,
            "prompt_text": item.prompt_text,
        }
        lines.append({**line, **_write_signals(item, folder)})
    lists = {LIST: [json.dumps(line, ensure_ascii=False) for line in lines]}
    for name in SIGNALS:
        lists[f"{name}.scp"] = [f"{line['id']} {folder.resolve() / line[name]}" for line in lines if name in line]
    lists["text"] = [f"{line['id']} {' '.join(line['text'].split())}" for line in lines if line["text"]]
    lists["utt2spk"] = [f"{line['id']} {line['speaker'] or line['id']}" for line in lines]
    for name, content in lists.items():
        if content:
            with atomic_path(folder / name) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")


def _write_signals(item: TestItem, folder: Path) -> dict[str, str]:
    """Return the files' paths in the folder."""
    paths = {}
    for name in SIGNALS:
        if (recording := item.recording(name)) is None:
            continue
        paths[name] = f"{name}/{item.id}.wav"
        wave = recording.wave.numpy()
        # In 16 bits, unless some of it would be clipped.
        subtype = "PCM_16" if float(np.abs(wave).max(initial=0.0)) < 1.0 else "FLOAT"
        with atomic_path(folder / paths[name]) as temporary:
            soundfile.write(temporary, wave, recording.sample_rate, subtype=subtype, format="WAV")
    if item.features is not None:
        paths["features"] = f"features/{item.id}.npy"
        with atomic_path(folder / paths["features"]) as temporary:
            np.save(temporary, item.features.numpy())
    return paths
