"""Files and folders are named by text as well as by `Path`: what one gives, the other gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT, StarterTests
from metis_lightning.data.manifest.records import read_manifest, read_trials
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.media.audio import (
    audio_seconds,
    audio_writer,
    check_sound,
    read_audio,
    read_recording,
    stream_audio,
    write_wav,
)
from metis_lightning.data.recipes.l2s import read_feature_file
from metis_lightning.data.recipes.recipe import PlainRecipe

ROOT = str(STARTER_ROOT)
MANIFEST = f"{ROOT}/starter.jsonl"


def written(name: Any) -> bytes:
    with audio_writer(name, 24_000) as write:
        write(torch.ones(100) / 2)
    return Path(name).read_bytes()


def wav(name: Any) -> bytes:
    write_wav(name, torch.ones(100) / 2, 24_000)
    return Path(name).read_bytes()


CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "read_audio": ("sound.wav", lambda path: read_audio(path, 16_000).tolist()),
    "read_recording": ("sound.wav", lambda path: read_recording(path).wave.tolist()),
    "audio_seconds": ("sound.wav", audio_seconds),
    "stream_audio": ("sound.wav", lambda path: torch.cat(list(stream_audio(path, 16_000))).tolist()),
    "check_sound": ("sound.wav", check_sound),
    "write_wav": ("written.wav", wav),
    "audio_writer": ("written.flac", written),
    "read_feature_file": ("lips.npy", lambda path: read_feature_file(path).tolist()),
    "read_manifest": (MANIFEST, lambda path: len(read_manifest(path))),
    "open_manifest": (MANIFEST, lambda path: len(open_manifest(path))),
    "read_trials": (f"{ROOT}/tse_trials.jsonl", lambda path: len(read_trials(path))),
    "StarterTests": (ROOT, lambda root: len(StarterTests(root).corpus.utterances)),
    "StarterDataModule": (ROOT, lambda root: len(StarterDataModule(PlainRecipe(), root=root).utterances())),
}


@pytest.mark.parametrize("name", CALLS)
def test_text_names_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_wav(tmp_path / "sound.wav", torch.from_numpy(rng.uniform(-0.5, 0.5, 4_000)), 24_000)
    np.save(tmp_path / "lips.npy", rng.standard_normal((5, 3)).astype(np.float32))
    path, call = CALLS[name]
    assert call(path) == call(Path(path))
