import hashlib
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.speakers.ge2e import GE2E_WEIGHTS, Ge2eEncoder, partial_starts, raise_volume


def speaker_similarity(first: np.ndarray, second: np.ndarray, encoder: Ge2eEncoder) -> float:
    return float(encoder.embed(first) @ encoder.embed(second))


@pytest.fixture(scope="module")
def encoder() -> Ge2eEncoder:
    return Ge2eEncoder()


@pytest.mark.parametrize("name", ["if-sara_0069", "allison_cannot-complete-as-dialed", "noise"])
def test_equals_the_package(
    encoder: Ge2eEncoder, expected: dict[str, Any], expected_waves: dict[str, np.ndarray], name: str
) -> None:
    embedding = encoder.embed(expected_waves[name])
    assert embedding.shape == (256,)
    assert embedding[:32].tolist() == pytest.approx(expected[name]["embedding"], abs=5e-4)
    assert float(embedding.norm()) == pytest.approx(1.0, abs=1e-12)


def test_weights_are_the_file_that_the_readme_names() -> None:
    readme = (GE2E_WEIGHTS.parent / "README.md").read_text()
    assert hashlib.sha256(GE2E_WEIGHTS.read_bytes()).hexdigest() in readme
    assert "Apache License" in (GE2E_WEIGHTS.parent / "LICENSE").read_text()
    with safe_open(GE2E_WEIGHTS, "pt") as file:
        assert len(file.keys()) == 14  # 3 LSTM layers of 4, a linear layer of 2, no optimiser


def test_own_voice_is_closer_than_others(encoder: Ge2eEncoder, speech: Callable[[str], np.ndarray]) -> None:
    items = ["af-bella_0002", "if-sara_0069", "bm-george_0197", "allison_cannot-complete-as-dialed"]
    halves = {item: np.array_split(speech(item), 2) for item in items}
    same = [speaker_similarity(*pair, encoder) for pair in halves.values()]
    other = [speaker_similarity(halves[a][0], halves[b][1], encoder) for a, b in combinations(items, 2)]
    assert min(same) > max(other) + 0.05


def test_level_does_not_matter_below_the_target(encoder: Ge2eEncoder, clean: np.ndarray) -> None:
    assert speaker_similarity(0.001 * clean, 0.002 * clean, encoder) == pytest.approx(1.0, abs=1e-5)


def test_raise_volume_only_raises() -> None:
    quiet = np.full(100, 1e-3, dtype=np.float32)
    assert raise_volume(quiet) == pytest.approx(np.full(100, 10 ** (-30 / 20)), rel=1e-5)
    loud = np.full(100, 0.5, dtype=np.float32)
    np.testing.assert_array_equal(raise_volume(loud), loud)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    # A partial is 1.6 s, the step 0.77 s; the last needs 1.2 s of audio unless it is the only one.
    [(0.3, [0]), (1.6, [0]), (1.9, [0]), (1.98, [0, 77]), (3.0, [0, 77, 154])],
)
def test_partial_utterances(seconds: float, starts: list[int]) -> None:
    assert partial_starts(round(seconds * 16_000)) == starts


def test_silence_has_no_voice(encoder: Ge2eEncoder) -> None:
    with pytest.raises(MetricError, match="the signal is silent"):
        encoder.embed(np.zeros(16_000))
