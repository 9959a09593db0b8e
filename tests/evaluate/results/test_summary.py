"""Means, failures and intervals of rows."""

import math

import numpy as np
import pytest
from scipy.stats import t

from metis_lightning.evaluate.results import summary
from metis_lightning.evaluate.results.estimates import mean_interval
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.evaluate.results.summary import NOT_MEASURED, GroupSummary, Summary, column_by_name
from metis_lightning.metrics.metric import INFINITE, Column


def row(
    utterance: str,
    value: float | None,
    speaker: str = "anna",
    system: str = "nano",
    metric: str = "PESQ",
    wer: dict[str, int] | None = None,
    **more: object,
) -> ResultRow:
    """A row as an earlier version wrote it, but for what is given beside."""
    error = {} if value is not None else {metric: "silent"}
    content = {
        "id": utterance,
        "task": "tse",
        "test_set": "test-human",
        "system": system,
        "speaker": speaker,
        "metrics": {metric: value},
        "error": error,
        "wer": wer,
    }
    return ResultRow.from_json(content | more)


def summarize(rows: list[ResultRow]) -> list[GroupSummary]:
    return summary.summarize(rows, {})


def summary_of(rows: list[ResultRow], metric: str) -> Summary:
    return summary.summary_of(rows, column_by_name(metric))


def test_failures_are_counted_with_their_reasons_and_never_averaged() -> None:
    [group] = summarize([row("a", 1.0), row("b", None), row("c", 4.0, speaker="ben"), row("d", None)])
    assert (group.test_set, group.system, len(group.rows)) == ("test-human", "nano", 4)
    record = group.metrics["PESQ"]
    assert (record.n, record.n_failed, record.mean) == (2, 2, 2.5)
    assert record.errors == {"silent": 2}
    assert (record.ci95_low, record.ci95_high, record.n_clusters) == (None, None, 2)


def test_a_metric_that_a_row_lacks_does_not_apply() -> None:
    [group] = summarize([row("a", 1.0), row("b", 0.5, metric="STOI")])
    record = group.metrics["PESQ"]
    assert (record.n_failed, record.errors, record.n_not_applicable) == (0, {}, 1)
    assert record.not_applicable == {NOT_MEASURED: 1}


def test_only_what_a_system_is_to_blame_for_has_failed() -> None:
    beyond = row("c", None, failed=[], error={"PESQ": INFINITE})
    lacking = row("d", None, failed=[], error={"PESQ": "no reference"})
    record = summary_of([row("a", 1.0), row("b", None), beyond, lacking], "PESQ")
    assert (record.n, record.n_failed, record.n_infinite, record.n_not_applicable) == (1, 1, 1, 1)
    assert (record.errors, record.not_applicable) == ({"silent": 1}, {"no reference": 1})
    # Rows of earlier versions do not say who is to blame.
    old = [row("a", None, error={"PESQ": reason}) for reason in ("silent", "no reference", INFINITE)]
    assert [summary_of([one], "PESQ").n_failed for one in old] == [1, 0, 0]


def test_a_metric_without_a_value_has_no_mean() -> None:
    [group] = summarize([row("a", None)])
    record = group.metrics["PESQ"]
    assert (record.n, record.n_failed) == (0, 1)
    assert record.mean is record.ci95_low is record.ci95_high is None


def test_one_speaker_has_no_interval() -> None:
    [group] = summarize([row("a", 1.0), row("b", 2.0)])
    assert group.metrics["PESQ"].mean == 1.5
    assert group.metrics["PESQ"].ci95_low is None


def test_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="PESQ of a"):
        summarize([row("a", math.nan)])


def test_word_errors_are_given_over_the_corpus_and_as_a_mean() -> None:
    rows = [
        row("a", 0.5, "anna", metric="WER_x", wer={"edits": 1, "words": 2}),
        row("b", 0.1, "ben", metric="WER_x", wer={"edits": 1, "words": 10}),
        row("c", None, "carla", metric="WER_x"),
    ]
    record = summarize(rows)[0].metrics["WER_x"]
    assert (record.corpus.edits, record.corpus.length, record.n, record.n_failed) == (2, 12, 2, 1)
    assert record.corpus.rate == pytest.approx(2 / 12)
    assert record.mean == pytest.approx(0.3)
    assert record.corpus.ci95_low is record.corpus.ci95_high is None


def test_parts_and_tail_of_word_errors_are_kept_and_the_mean_where_measured_beside() -> None:
    deleted = {"edits": 4, "words": 4, "substitutions": 0, "deletions": 4, "insertions": 0}
    heard = {"edits": 3, "words": 6, "substitutions": 1, "deletions": 0, "insertions": 2}
    silent = row("b", 1.0, metric="WER_x", wer=deleted, cer=None, failed=["WER_x"], error={"WER_x": "silent"})
    rows = [row("a", 0.5, metric="WER_x", wer=heard), silent]
    record = summary_of(rows, "WER_x")
    errors = record.corpus
    assert (record.mean, errors.rate, record.n, record.n_failed) == (0.75, 0.7, 2, 1)
    assert (errors.substitutions, errors.deletions, errors.insertions) == (1, 4, 2)
    assert errors.share_above_50 == 0.5
    assert (errors.measured_n, errors.measured_mean, errors.measured_corpus) == (1, 0.5, 0.5)


def test_character_errors_are_counted_over_the_corpus_too() -> None:
    rows = [
        row("a", 0.5, metric="CER_x", cer={"edits": 1, "characters": 2}),
        row("b", 0.1, metric="CER_x", cer={"edits": 1, "characters": 10}),
    ]
    record = summary_of(rows, "CER_x")
    assert (record.corpus.rate, record.corpus.length) == (pytest.approx(2 / 12), 12)
    assert record.to_json()["characters"] == 12
    assert summary_of([row("a", 0.5, metric="CER_x")], "CER_x").corpus is None, "rows of an earlier version"


def test_groups_keep_the_order_of_their_first_row() -> None:
    groups = summarize([row("a", 1.0, system="b"), row("a", 2.0, system="a"), row("b", 3.0, system="b")])
    assert [(group.system, len(group.rows)) for group in groups] == [("b", 2), ("a", 1)]


def test_the_interval_is_that_of_the_speakers_means_if_they_have_equally_many() -> None:
    generator = np.random.default_rng(1)
    speakers = np.repeat(np.arange(12), 5)
    values = generator.normal(size=12)[speakers] + 0.1 * generator.normal(size=60)
    mean, (low, high) = mean_interval(values.tolist(), [1] * 60, speakers.tolist())
    assert mean == pytest.approx(values.mean())

    by_speaker = values.reshape(12, 5).mean(axis=1)
    half = t.ppf(0.975, 11) * by_speaker.std(ddof=1) / math.sqrt(12)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half])

    # Taking the utterances for independent would claim an interval less than half as wide.
    _, (narrow_low, narrow_high) = mean_interval(values.tolist(), [1] * 60, list(range(60)))
    assert narrow_high - narrow_low < 0.6 * (high - low)


def test_the_same_rows_give_the_same_interval() -> None:
    values, speakers = [1.0, 2.0, 4.0, 8.0, 16.0], ["a", "b", "c", "d", "e"]
    assert mean_interval(values, [1] * 5, speakers) == mean_interval(values, [1] * 5, speakers)


def test_the_spread_over_seeds_is_that_of_their_means() -> None:
    rows = [
        row("a", 1.0, seed=0),
        row("b", 3.0, seed=0),
        row("a", 2.0, seed=1),
        row("b", 6.0, seed=1),
    ]
    record = summarize(rows)[0].metrics["PESQ"]
    assert (record.n, record.mean, record.n_seeds) == (2, 3.0, 2)
    assert record.seed_sd == pytest.approx(math.sqrt(2.0))
    assert "seed_sd" not in summarize(rows[:2])[0].metrics["PESQ"].to_json()


def test_a_summary_is_written_with_its_column_and_read_again() -> None:
    metrics = {"WER_base.en": 0.5, "PESQ": 2.0}
    rows = [row("a", 0.5, wer={"edits": 1, "words": 2}, metrics=metrics)]
    columns = {"WER_base.en": column_by_name("WER_base.en"), "PESQ": Column("PESQ", "PESQ", unit="points")}
    written = [group.to_json() for group in summary.summarize(rows, columns)]
    assert summary.columns_of(written) == columns
    record = written[0]["metrics"]["PESQ"]
    assert (record["quantity"], record["unit"], record["higher_is_better"], record["model"]) == (
        "PESQ", "points", True, None
    )  # fmt: skip
    assert list(written[0]["metrics"]["WER_base.en"])[:6] == [
        "n", "n_failed", "n_infinite", "n_not_applicable", "mean", "ci95_low"
    ]  # fmt: skip
    # Results of earlier versions do not describe their columns.
    del record["quantity"]
    assert set(summary.columns_of(written)) == {"WER_base.en"}


def test_a_row_is_written_as_it_was_read() -> None:
    old = {"id": "a", "task": "tse", "test_set": "t", "system": "s", "metrics": {"PESQ": None}, "error": {"PESQ": "x"}}
    assert ResultRow.from_json(old).to_json() == old
    assert ResultRow.from_json(old).failed == ["PESQ"]
    counts = {"substitutions": 1, "deletions": 0, "insertions": 0}
    new = row("a", 0.5, wer={"edits": 1, "words": 2, **counts, "text": "a b", "hypothesis": "a c"}).to_json()
    assert new["wer"] == {"edits": 1, "words": 2, **counts, "text": "a b", "hypothesis": "a c"}
    assert ResultRow.from_json(new).to_json() == new
