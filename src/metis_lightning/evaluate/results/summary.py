"""Summaries of rows: means with confidence intervals.

A failure never improves a mean. Where nothing can be heard all words count as deleted; other scores have no worst
value, so systems are compared on the utterances that all of them have (see `comparison`). A value that is not there
failed, if the system is to blame; is infinite, as SI-SDR of the reference itself; or is not applicable, if the test set
lacks the text or the signal, or no recogniser knows the language.

Error rates are given over the corpus, all edits over all words, and as the mean of the utterances' rates. Beside them
stand the same where measured: without outputs in which nothing was heard, and without capped loops of the recogniser.
With several seeds n counts utterances, means are of rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metis_lightning.evaluate.results.estimates import mean_interval
from metis_lightning.evaluate.results.intervals import Estimate
from metis_lightning.evaluate.results.rows import EDITS, ERROR_RATES, ResultRow
from metis_lightning.metrics.metric import INFINITE, Column

NOT_MEASURED = "not measured"
# Of an error rate by a recogniser that the language of the utterance does not go to.
OTHER_RECOGNIZER = "in a language of another recogniser"
# Units and directions of results that do not describe their columns.
_UNITS = {"WER": "%", "CER": "%", "SI_SDR": "dB", "SDR": "dB", "LSD": "dB", "MCD": "dB", "F0_RMSE": "Hz"}
_LOWER_IS_BETTER = {"WER", "CER", "RTF", "LSD", "MCD", "F0_RMSE", "STEPS"}


def column_by_name(name: str) -> Column:
    """Return the column of a name in results of earlier versions, which do not describe it, or in a benchmark file.

    Scores are in capitals (DNSMOS_SIG, SI_SDR), the models that follow some of them are not.

    >>> column_by_name("SIM_target_ge2e").quantity, column_by_name("WER_tiny.en").title
    ('SIM_target', 'WER % (tiny.en) ↓')
    """
    quantity, _, model = name.rpartition("_")
    if not quantity or model.isupper():
        quantity, model = name, ""
    # Whatever its texts come from: a corpus, or a recogniser.
    measure = quantity.removesuffix("_asr")
    return Column(name, quantity, _UNITS.get(measure, ""), measure not in _LOWER_IS_BETTER, model or None)


def columns_of(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """Return the columns that the content of a `summary.json` describes, by name."""
    records = {name: record for summary in summaries for name, record in summary["metrics"].items()}
    return {name: Column.from_json(name, record) for name, record in records.items() if "quantity" in record}


def word_error_rule(test_set: str) -> str:
    """Return "mean" for the lists of Seed-TTS-eval, as its script counts, else "corpus": all edits over all words.

    >>> word_error_rule("seedtts-vc-en"), word_error_rule("SeedTTS test-en"), word_error_rule("vctk")
    ('mean', 'mean', 'corpus')
    """
    return "mean" if test_set.lower().replace("-", "").startswith("seedtts") else "corpus"


@dataclass(frozen=True, kw_only=True)
class CorpusErrors:
    """An error rate of all rows taken as one text: `rate` is edits over `length`, in words or characters (`unit`)."""

    rate: float | None
    ci95_low: float | None
    ci95_high: float | None
    edits: int
    length: int
    # None unless all rows have them.
    substitutions: int | None
    deletions: int | None
    insertions: int | None
    # Of utterances with more than 50% errors.
    share_above_50: float | None
    # Of those that were heard and did not loop.
    measured_n: int
    measured_mean: float | None
    measured_corpus: float | None
    unit: str

    def to_json(self) -> dict[str, Any]:
        """Return its part of a metric's record."""
        keys = {"rate": "corpus", "ci95_low": "corpus_ci95_low", "ci95_high": "corpus_ci95_high", "length": self.unit}
        hidden = {"unit", *(kind for kind in EDITS if getattr(self, kind) is None)}
        return {keys.get(name, name): value for name, value in vars(self).items() if name not in hidden}


@dataclass(frozen=True, kw_only=True)
class Summary(Estimate):
    """One metric of a group of rows: a mean over the `n` utterances with a value, and why others have none."""

    column: Column
    n: int
    n_failed: int
    n_infinite: int
    n_not_applicable: int
    # Reasons, with how many utterances.
    errors: Mapping[str, int] = field(default_factory=dict)
    not_applicable: Mapping[str, int] = field(default_factory=dict)
    # The standard deviation of the means of several seeds.
    n_seeds: int | None = None
    seed_sd: float | None = None
    # Of error rates whose rows have the counts.
    corpus: CorpusErrors | None = None
    # Utterances that all compared systems have, and those that the metric applies to.
    n_common: int | None = None
    n_items: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the metric's record of `summary.json`, which describes the column, too."""
        hidden = {"column", "corpus", "n_common", "n_items"}
        if self.n_seeds is None:
            hidden |= {"n_seeds", "seed_sd"}
        # Counts come first.
        names = dict.fromkeys(("n", "n_failed", "n_infinite", "n_not_applicable", *vars(self)))
        content = {name: getattr(self, name) for name in names if name not in hidden}
        return content | ({} if self.corpus is None else self.corpus.to_json()) | self.column.to_json()


@dataclass(frozen=True)
class GroupSummary:
    """All metrics of a system on a test set."""

    test_set: str
    system: str
    rows: Sequence[ResultRow]
    metrics: Mapping[str, Summary]

    def to_json(self) -> dict[str, Any]:
        """Return the group's record of `summary.json`."""
        metrics = {name: summary.to_json() for name, summary in self.metrics.items()}
        return {"test_set": self.test_set, "system": self.system, "n_rows": len(self.rows), "metrics": metrics}


def summarize(rows: Iterable[ResultRow], columns: Mapping[str, Column]) -> list[GroupSummary]:
    """Summarize every metric of every system on every test set, in the order of the rows; `columns` are by name."""
    groups: dict[tuple[str, str, str], list[ResultRow]] = defaultdict(list)
    for row in rows:
        groups[row.task, row.test_set, row.system].append(row)
    summaries = []
    for (_, test_set, system), group in groups.items():
        names = dict.fromkeys(name for row in group for name in row.metrics)
        metrics = {name: summary_of(group, columns.get(name) or column_by_name(name)) for name in names}
        summaries.append(GroupSummary(test_set, system, group, metrics))
    return summaries


def summary_of(rows: Sequence[ResultRow], column: Column) -> Summary:
    """Summarize one metric."""
    name = column.name
    # An error rate may have a value and have failed, too: the worst, where nothing was heard.
    measured = [row for row in rows if row.value(name) is not None]
    failed = [row for row in rows if name in row.failed]
    without = [row for row in rows if row.value(name) is None]
    infinite = [row for row in without if row.error.get(name) == INFINITE]
    absent = [row for row in without if name not in row.failed and row.error.get(name) != INFINITE]
    values, clusters = [row.metrics[name] or 0.0 for row in measured], [row.cluster for row in measured]
    mean, (low, high) = mean_interval(values, [1] * len(values), clusters)
    by_seed: dict[int | None, list[float]] = defaultdict(list)
    for row, value in zip(measured, values, strict=True):
        by_seed[row.seed].append(value)
    has_seeds = len(by_seed) > 1
    # With several seeds an utterance has several rows, and counts once, as it does for each reason.
    reasons = []
    unsaid = OTHER_RECOGNIZER if column.quantity in ERROR_RATES else NOT_MEASURED
    for part in (failed, absent):
        pairs = {(row.item, row.error.get(name, unsaid)) for row in part}
        reasons.append(dict(sorted(Counter(reason for _, reason in pairs).items())))
    counted = {"n": measured, "n_failed": failed, "n_infinite": infinite, "n_not_applicable": absent}
    return Summary(
        column=column,
        **{key: len({row.item for row in part}) for key, part in counted.items()},
        mean=mean,
        ci95_low=low,
        ci95_high=high,
        n_clusters=len(set(clusters)),
        clusters="speakers" if all(row.speaker for row in measured) else "utterances",
        errors=reasons[0],
        not_applicable=reasons[1],
        n_seeds=len(by_seed) if has_seeds else None,
        seed_sd=float(np.std([np.mean(part) for part in by_seed.values()], ddof=1)) if has_seeds else None,
        corpus=_corpus_errors(measured, column, clusters),
    )


def _corpus_errors(rows: Sequence[ResultRow], column: Column, clusters: Sequence[Hashable]) -> CorpusErrors | None:
    """Return an error rate over all rows that have a value; None unless each of them has its counts."""
    counts = [count for row in rows if (count := row.counts(column)) is not None]
    if len(counts) < len(rows) or column.quantity not in ERROR_RATES:
        return None
    rate, (low, high) = mean_interval([each.edits for each in counts], [each.length for each in counts], clusters)
    # Beside an error the rate is not what was heard, but what counts as the worst.
    clean = [(row, count) for row, count in zip(rows, counts, strict=True) if column.name not in row.error]
    # Rows of earlier versions do not say how their edits divide.
    kinds = {kind: [getattr(each, kind) for each in counts] for kind in EDITS}
    return CorpusErrors(
        rate=rate,
        ci95_low=low,
        ci95_high=high,
        edits=sum(each.edits for each in counts),
        length=sum(each.length for each in counts),
        **{kind: None if None in numbers else sum(numbers) for kind, numbers in kinds.items()},
        share_above_50=float(np.mean([(row.metrics[column.name] or 0.0) > 0.5 for row in rows])) if rows else None,
        measured_n=len({row.item for row, _ in clean}),
        measured_mean=float(np.mean([row.metrics[column.name] for row, _ in clean])) if clean else None,
        measured_corpus=sum(c.edits for _, c in clean) / sum(c.length for _, c in clean) if clean else None,
        unit=ERROR_RATES[column.quantity],
    )
