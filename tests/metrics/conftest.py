import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio

SHORT = "if-sara_0069"  # 2.7 s, 11 s when repeated: one window of DNSMOS


@pytest.fixture(scope="session")
def speech() -> Callable[[str], np.ndarray]:
    """Read a starter utterance by its id, at 16 kHz."""
    paths = {utterance.id: utterance.path for utterance in read_manifest(STARTER_ROOT / "starter.jsonl")}
    return lambda item: read_audio(paths[item], 16_000).numpy()


@pytest.fixture(scope="session")
def clean(speech: Callable[[str], np.ndarray]) -> np.ndarray:
    return speech(SHORT)


@pytest.fixture(scope="session")
def noisy(clean: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(7).standard_normal(len(clean)).astype(np.float32)
    return clean + 0.3 * clean.std() * noise


@pytest.fixture(scope="session")
def expected() -> dict[str, Any]:
    """Values that the packages themselves gave once; the file says how it was made."""
    return json.loads((Path(__file__).parent / "expected.json").read_text())["signals"]


@pytest.fixture(scope="session")
def expected_waves(expected: dict[str, Any], speech: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    noise = (0.05 * np.random.default_rng(0).standard_normal(45_000)).astype(np.float32)
    waves = {name: noise if name == "noise" else speech(name) for name in expected}
    assert {name: len(wave) for name, wave in waves.items()} == {n: e["samples"] for n, e in expected.items()}
    return waves
