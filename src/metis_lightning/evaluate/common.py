"""Several systems on the items that all of them have.

Most scores have no worst value, so a system that fails on what is hard would be the better for it. Where systems stand
side by side, each mean is of the same utterances. A system with no value at all in a metric takes no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from metis_lightning.evaluate.runs import Result
from metis_lightning.evaluate.stats import failed_of, is_infinite, items_of, summary_of, value

# What of a summary is of all of a system's utterances, whatever the others have.
_OWN = ("n", "n_failed", "n_infinite", "n_not_applicable", "errors", "not_applicable")
_OWN_MEASURED = ("measured_n", "measured_mean", "measured_corpus")


def on_common_items(results: Sequence[Result]) -> list[Result]:
    """Return results of one test set with their means over the utterances that all have.

    In each summary `n_common` says how many those are, and `n_items` to how many the metric applies: to those in which
    any of the systems has a value or failed.
    """
    names = dict.fromkeys(name for result in results for name in result.metrics)
    metrics: list[dict[str, Any]] = [dict(result.metrics) for result in results]
    for name in names:
        having = [items for result in results if (items := _having(result, name))]
        common = set.intersection(*having) if having else set()
        applies = set().union(*(_applies(result, name) for result in results))
        for result, summaries in zip(results, metrics, strict=True):
            if name in summaries:
                counts = {"n_common": len(common), "n_items": len(applies)}
                summaries[name] = {**_restricted(result, name, common), **counts}
    return [replace(result, metrics=summaries) for result, summaries in zip(results, metrics, strict=True)]


def _having(result: Result, name: str) -> set[tuple[str, str]]:
    return items_of(row for row in result.rows if value(row, name) is not None)


def _applies(result: Result, name: str) -> set[tuple[str, str]]:
    return items_of(
        row for row in result.rows if value(row, name) is not None or name in failed_of(row) or is_infinite(row, name)
    )


def _restricted(result: Result, name: str, common: set[tuple[str, str]]) -> Mapping[str, Any]:
    """Return a summary whose estimates are of the common utterances."""
    own = result.metrics[name]
    if own["n"] in (0, len(common)):
        return own
    part = summary_of([row for row in result.rows if (row["test_set"], row["id"]) in common], name)
    return part | {key: own[key] for key in (*_OWN, *_OWN_MEASURED) if key in own}
