"""What a test set holds: which variant of a corpus it is, in clear, and hashes of its texts and of its audio."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metis_lightning.evaluate.test_sets import TestSet
from metis_lightning.files import sha256_of
from metis_lightning.types import AudioLocation, TestItem

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
