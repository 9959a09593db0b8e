"""A small corpus of tones, made on the spot: three speakers, three utterances each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import write_wav

SPEAKERS = ("ada", "bob", "eve")


def tone(seconds: float, frequency: float, level: float = 0.25) -> torch.Tensor:
    """A sine at 24 kHz."""
    return level * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * 24_000)) / 24_000)


def row(speaker: str, number: int, /, **changes: object) -> dict[str, object]:
    """A manifest line; utterances last 1.0, 1.5 and 2.0 s."""
    return {
        "id": f"{speaker}_{number}",
        "path": f"audio/{speaker}_{number}.wav",
        "speaker": speaker,
        "sex": "m" if speaker == "bob" else "f",
        "text": f"{speaker} says number {number}",
        "language": "en-US",
        "seconds": 1.0 + number / 2,
        "sample_rate": 24_000,
        "split": "train",
        **changes,
    }


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return path


@pytest.fixture(name="tone")
def _tone() -> Callable[..., torch.Tensor]:
    return tone


@pytest.fixture(name="row")
def _row() -> Callable[..., dict[str, object]]:
    return row


@pytest.fixture(name="write_manifest")
def _write_manifest() -> Callable[..., Path]:
    return write_manifest


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `starter.jsonl` and its audio; the third speaker is the split `dev`."""
    root = tmp_path_factory.mktemp("tones")
    rows = [row(s, n, split="dev" if s == "eve" else "train") for s in SPEAKERS for n in range(3)]
    for i, line in enumerate(rows):
        write_wav(root / str(line["path"]), tone(float(str(line["seconds"])), 200.0 + 50 * i), 24_000)
    write_manifest(root / "starter.jsonl", rows)
    return root


@pytest.fixture
def corpus(tones: Path) -> SpeechCorpus:
    return SpeechCorpus(read_manifest(tones / "starter.jsonl"))
