"""Reads and writes trials of target speaker extraction whose mixtures are made of a corpus's utterances."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.test_sets import trial_item
from metis_lightning.data.media.mixing import mix_trial
from metis_lightning.files import atomic_path
from metis_lightning.types import TestItem, Trial


def mixed_item(trial: Trial, corpus: SpeechCorpus, **fields: Any) -> TestItem:  # noqa: ANN401
    """Read a trial's utterances and make its mixture; `fields` are further ones of the item.

    Raises:
        UserError: if an utterance is not in the corpus or its audio cannot be read.
    """
    names = (trial.target, trial.interferer, trial.enrollment)
    target, interferer, enrollment = (corpus.index_of(name) for name in names)
    mixed = mix_trial(trial, corpus.wave(target), corpus.wave(interferer))
    return trial_item(
        trial,
        corpus.utterances[target],
        mixture=mixed.mixture,
        target=mixed.target,
        interferer=mixed.interferer,
        enrollment=corpus.wave(enrollment),
        prompt_text=corpus.utterances[enrollment].text,
        sources=tuple(corpus.utterances[index].path for index in (target, interferer, enrollment)),
        **fields,
    )


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write a test list that `read_trials` reads, complete or not at all."""
    rows = ({key: value for key, value in asdict(t).items() if value not in ("", None)} for t in trials)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
