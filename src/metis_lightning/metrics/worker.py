"""What runs in a scoring process. Light to import: threads are capped before numpy and torch are loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from metis_lightning.metrics.protocols import SuiteOptions

if TYPE_CHECKING:
    from metis_lightning.metrics.metric import MetricValue
    from metis_lightning.metrics.signal import ScoringItem
    from metis_lightning.metrics.suite import Suite

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """The suite of this process, made once by `start`."""

    suite: Suite | None = None


def start(options: SuiteOptions) -> None:
    """Load the suite; the process has no more than `options.num_threads` threads for each of its number crunchers."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(options.num_threads)
    import torch

    from metis_lightning.metrics.suite import Suite

    torch.set_num_threads(options.num_threads)
    Worker.suite = Suite(options)


def score(utterance: ScoringItem) -> dict[str, MetricValue]:
    """Score one utterance with the suite of this process."""
    return _suite().score(utterance)


def fingerprint() -> dict[str, Any]:
    """Return the fingerprint of the suite of this process."""
    return _suite().fingerprint()


def wer_column() -> str | None:
    """Return the name of the word error rate of the suite of this process."""
    return _suite().wer_column


def _suite() -> Suite:
    if Worker.suite is None:
        raise RuntimeError("the scoring process was not started")
    return Worker.suite
