"""`evaluate --export`: the items of test sets for other tools, as files by their ids and as lists.

Below the folder each test set has one of its own: `SIGNAL/ID.wav` for each signal, at its own rate; `list.jsonl`, a
line an item with what it says and where its files are; and as Kaldi has it, `SIGNAL.scp`, `text` and `utt2spk`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from metis_lightning.errors import UserError
from metis_lightning.evaluate.run.test_sets import SIGNALS, TestSet
from metis_lightning.files import atomic_path
from metis_lightning.types import Recording, TestItem

LIST = "list.jsonl"


def export(test_sets: Sequence[TestSet], folder: Path) -> None:
    """Write test sets; what is there already is written anew.

    Raises:
        UserError: an item cannot be read, or a file cannot be written.
    """
    for test_set in test_sets:
        try:
            _export(test_set, folder / test_set.name)
        except OSError as error:
            raise UserError(f"--export {folder}: cannot be written ({error}); check the folder") from error
        print(f"{test_set.name}: {len(test_set.trials)} items, listed in {folder / test_set.name / LIST}")


def _export(test_set: TestSet, folder: Path) -> None:
    lines = []
    for trial in tqdm(test_set.trials, desc=f"export {test_set.name}", unit="utt", delay=2, leave=False, disable=None):
        item = test_set.reader.load_item(trial)
        lines.append({**_said(item, trial.task), **_written(item, folder)})
    _write(folder / LIST, [json.dumps(line, ensure_ascii=False) for line in lines])
    for name in SIGNALS:
        _write(
            folder / f"{name}.scp", [f"{line['id']} {folder.resolve() / line[name]}" for line in lines if name in line]
        )
    _write(folder / "text", [f"{line['id']} {' '.join(line['text'].split())}" for line in lines if line["text"]])
    _write(folder / "utt2spk", [f"{line['id']} {line['speaker'] or line['id']}" for line in lines])


def _said(item: TestItem, task: str) -> dict[str, Any]:
    """Return what an item's line says beside its files."""
    return {
        "id": item.id,
        "test_set": item.test_set,
        "task": task,
        "speaker": item.speaker,
        "text": item.text or "",
        "language": item.language,
        "prompt_text": item.prompt_text,
    }


def _written(item: TestItem, folder: Path) -> Mapping[str, str]:
    """Write an item's signals and features, and return their paths in the folder."""
    written = {}
    for name in SIGNALS:
        if (recorded := item.recording(name)) is not None:
            written[name] = f"{name}/{item.id}.wav"
            _write_wav(folder / written[name], recorded)
    if item.features is not None:
        written["features"] = f"features/{item.id}.npy"
        with atomic_path(folder / written["features"]) as temporary:
            np.save(temporary, item.features.numpy())
    return written


def _write_wav(path: Path, recorded: Recording) -> None:
    """Write a signal in 16 bits, or in floating point if some of it would be clipped."""
    wave = recorded.wave.numpy()
    subtype = "PCM_16" if float(np.abs(wave).max(initial=0.0)) < 1.0 else "FLOAT"
    with atomic_path(path) as temporary:
        soundfile.write(temporary, wave, recorded.sample_rate, subtype=subtype, format="WAV")


def _write(path: Path, lines: Sequence[str]) -> None:
    """Write a list, but no empty one."""
    if lines:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
