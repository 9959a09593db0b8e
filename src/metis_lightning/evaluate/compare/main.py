"""`compare`: systems side by side, as TensorBoard runs with the same tags and as one HTML page with players."""

from __future__ import annotations

import sys
from pathlib import Path

from metis_lightning.data.media.audio import read_audio
from metis_lightning.evaluate.compare.clips import read_clips
from metis_lightning.evaluate.compare.page import ComparePage
from metis_lightning.evaluate.compare.tensorboard import open_board
from metis_lightning.evaluate.options import CompareOptions
from metis_lightning.evaluate.results.comparison import read_comparison
from metis_lightning.files import atomic_path, check_output
from metis_lightning.progress import tracked
from metis_lightning.types import WAVE_RATE

PAGE_NAME, BOARD = "index.html", "tensorboard"


def run_compare(options: CompareOptions) -> None:
    """Run the command `compare`.

    Raises:
        UserError: there are no results, no such system, or no such metric.
    """
    out = options.out or Path("evaluation/compare") / options.task
    check_output(out / PAGE_NAME)
    check_output(out / BOARD, is_folder=True)
    comparison = read_comparison(options.results, options.task, options.systems)
    metric, system = comparison.sort_order(options.sort)
    utterances = comparison.worst_first(metric, system)[: options.limit]
    page = ComparePage(comparison, metric, system)
    with open_board(out / BOARD, comparison) as board:
        # One utterance at a time: their audio together may not fit into memory.
        for utterance in tracked(utterances, "compare", "utterances", leave=True, delay=0.0):
            clips = read_clips(utterance, comparison.systems, lambda path: read_audio(path, WAVE_RATE))
            page.add(clips)
            board.add(clips)
    with atomic_path(out / PAGE_NAME) as temporary:
        temporary.write_text(page.html(), encoding="utf-8")
    for warning in comparison.warnings:
        print(f"metis-lightning: {warning}", file=sys.stderr)
    print(f"page: {out / PAGE_NAME} ({(out / PAGE_NAME).stat().st_size / 1e6:.1f} MB, {page.count} utterances)")
    print(f"TensorBoard: python -m tensorboard.main --logdir {out / BOARD}")
