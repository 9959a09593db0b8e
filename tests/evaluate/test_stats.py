"""Means, failures and intervals of rows."""

import math
from typing import Any

import numpy as np
import pytest

from metis_lightning.evaluate.stats import NOT_MEASURED, mean_interval, summarize


def row(
    utterance: str,
    value: float | None,
    speaker: str = "anna",
    system: str = "nano",
    metric: str = "PESQ",
    wer: dict[str, int] | None = None,
) -> dict[str, Any]:
    error = {} if value is not None else {metric: "silent"}
    return {
        "id": utterance,
        "test_set": "test-human",
        "system": system,
        "speaker": speaker,
        "metrics": {metric: value},
        "error": error,
        "wer": wer,
    }


def test_failures_are_counted_with_their_reasons_and_never_averaged() -> None:
    [group] = summarize([row("a", 1.0), row("b", None), row("c", 4.0, speaker="ben"), row("d", None)])
    assert (group["test_set"], group["system"], group["n_rows"]) == ("test-human", "nano", 4)
    record = group["metrics"]["PESQ"]
    assert (record["n"], record["n_failed"], record["mean"]) == (2, 2, 2.5)
    assert record["errors"] == {"silent": 2}
    assert (record["ci95_low"], record["ci95_high"]) == (1.0, 4.0)


def test_a_metric_that_a_row_lacks_has_failed() -> None:
    [group] = summarize([row("a", 1.0), row("b", 0.5, metric="STOI")])
    assert group["metrics"]["PESQ"]["n_failed"] == 1
    assert group["metrics"]["PESQ"]["errors"] == {NOT_MEASURED: 1}


def test_a_metric_without_a_value_has_no_mean() -> None:
    [group] = summarize([row("a", None)])
    record = group["metrics"]["PESQ"]
    assert (record["n"], record["n_failed"]) == (0, 1)
    assert record["mean"] is record["ci95_low"] is record["ci95_high"] is None


def test_one_speaker_has_no_interval() -> None:
    [group] = summarize([row("a", 1.0), row("b", 2.0)])
    assert group["metrics"]["PESQ"]["mean"] == 1.5
    assert group["metrics"]["PESQ"]["ci95_low"] is None


def test_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="PESQ of a"):
        summarize([row("a", math.nan)])


def test_word_errors_are_given_over_the_corpus_and_as_a_mean() -> None:
    rows = [
        row("a", 0.5, "anna", metric="WER_x", wer={"edits": 1, "words": 2}),
        row("b", 0.1, "ben", metric="WER_x", wer={"edits": 1, "words": 10}),
        row("c", None, "carla", metric="WER_x"),
    ]
    record = summarize(rows)[0]["metrics"]["WER_x"]
    assert (record["edits"], record["words"], record["n"], record["n_failed"]) == (2, 12, 2, 1)
    assert record["corpus"] == pytest.approx(2 / 12)
    assert record["mean"] == pytest.approx(0.3)
    assert record["corpus_ci95_low"] == pytest.approx(0.1)
    assert record["corpus_ci95_high"] == pytest.approx(0.5)


def test_groups_keep_the_order_of_their_first_row() -> None:
    groups = summarize([row("a", 1.0, system="b"), row("a", 2.0, system="a"), row("b", 3.0, system="b")])
    assert [(group["system"], group["n_rows"]) for group in groups] == [("b", 2), ("a", 1)]


def test_the_interval_agrees_with_a_hand_made_cluster_bootstrap() -> None:
    generator = np.random.default_rng(1)
    speakers = np.repeat(np.arange(12), 5)
    values = generator.normal(size=12)[speakers] + 0.1 * generator.normal(size=60)
    mean, (low, high) = mean_interval(values.tolist(), [1] * 60, speakers.tolist())
    assert mean == pytest.approx(values.mean())

    by_speaker = values.reshape(12, 5).mean(axis=1)
    drawn = generator.integers(12, size=(20_000, 12))
    expected = np.quantile(by_speaker[drawn].mean(axis=1), [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.03)

    # Taking the utterances for independent would claim an interval less than half as wide.
    _, (narrow_low, narrow_high) = mean_interval(values.tolist(), [1] * 60, list(range(60)))
    assert narrow_high - narrow_low < 0.6 * (high - low)


def test_the_same_rows_give_the_same_interval() -> None:
    values, speakers = [1.0, 2.0, 4.0, 8.0], ["a", "b", "c", "d"]
    assert mean_interval(values, [1] * 4, speakers) == mean_interval(values, [1] * 4, speakers)


def test_the_spread_over_seeds_is_that_of_their_means() -> None:
    rows = [
        row("a", 1.0) | {"seed": 0},
        row("b", 3.0) | {"seed": 0},
        row("a", 2.0) | {"seed": 1},
        row("b", 6.0) | {"seed": 1},
    ]
    record = summarize(rows)[0]["metrics"]["PESQ"]
    assert (record["n"], record["mean"], record["n_seeds"]) == (4, 3.0, 2)
    assert record["seed_sd"] == pytest.approx(math.sqrt(2.0))
    assert "seed_sd" not in summarize(rows[:2])[0]["metrics"]["PESQ"]
