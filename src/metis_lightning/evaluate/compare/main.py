"""`compare`: systems side by side, as TensorBoard runs with the same tags and as one HTML page with players."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.evaluate.compare.clips import Heard, hear
from metis_lightning.evaluate.compare.page import ComparePage
from metis_lightning.evaluate.compare.tensorboard import Board
from metis_lightning.evaluate.options import CompareOptions
from metis_lightning.evaluate.results.comparison import Comparison, Utterance, read_comparison
from metis_lightning.files import atomic_path, check_output
from metis_lightning.types import WAVE_RATE

PAGE, BOARD = "index.html", "tensorboard"


def run_compare(options: CompareOptions) -> None:
    """Run the verb `compare`.

    Raises:
        UserError: there are no results, no such system, or no such metric.
    """
    out = options.out or Path("evaluation/compare") / options.task
    check_output(out / PAGE)
    check_output(out / BOARD, is_folder=True)
    comparison = read_comparison(options.results, options.task, options.systems)
    metric, system = _order(comparison, options.sort)
    utterances = comparison.worst_first(metric, system)[: options.limit]
    page = ComparePage(comparison, metric, system, len(comparison.utterances))
    with Board(out / BOARD, comparison) as board:
        for heard in _heard(utterances, comparison.systems):
            page.add(heard)
            board.add(heard)
    with atomic_path(out / PAGE) as temporary:
        temporary.write_text(page.html(), encoding="utf-8")
    for warning in comparison.warnings:
        print(f"metis-lightning: {warning}", file=sys.stderr)
    print(f"page: {out / PAGE} ({(out / PAGE).stat().st_size / 1e6:.1f} MB, {page.count} utterances)")
    print(f"TensorBoard: python -m tensorboard.main --logdir {out / BOARD}")


def _order(comparison: Comparison, metric: str | None) -> tuple[str, str]:
    """Return by which metric of which system utterances are ordered."""
    if metric is not None and metric not in comparison.metrics:
        raise UserError(f"--sort {metric}: the results have {', '.join(comparison.metrics)}")
    return metric or comparison.default_metric(), comparison.default_system()


def _heard(utterances: Sequence[Utterance], systems: Sequence[str]) -> Iterator[Heard]:
    """Yield each utterance with its audio, one at a time."""
    progress = tqdm(utterances, unit="utt", desc="compare", disable=None)
    for count, utterance in enumerate(progress, 1):
        yield hear(utterance, systems, lambda path: read_audio(path, WAVE_RATE))
        if progress.disable and count % 20 == 0:
            print(f"{count}/{len(utterances)} utterances", file=sys.stderr)
