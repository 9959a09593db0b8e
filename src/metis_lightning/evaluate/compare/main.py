"""`compare`: systems side by side, as TensorBoard runs with the same tags and as one HTML page with players."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from metis_lightning.data.media.audio import read_audio
from metis_lightning.evaluate.compare.clips import ClipSet, read_clips
from metis_lightning.evaluate.compare.tensorboard import open_board
from metis_lightning.evaluate.html.document import MAX_PAGE_BYTES, opus_uri, picture, render, webp_uri
from metis_lightning.evaluate.options import CompareOptions
from metis_lightning.evaluate.results.comparison import Comparison, Entry, read_comparison
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import word_error_rule
from metis_lightning.evaluate.tables.layout import TableValue
from metis_lightning.files import atomic_path, check_output
from metis_lightning.metrics.metric import INFINITE
from metis_lightning.progress import tracked
from metis_lightning.types import WAVE_RATE

PAGE_NAME, BOARD = "index.html", "tensorboard"
# Characters of a transcript: a recogniser that loops writes without end.
_MAX_TEXT = 2000
# Of a waveform as it is drawn.
_PEAKS = 160


def run_compare(options: CompareOptions) -> None:
    """Run the command `compare`. A `UserError` if there are no results, no such system, or no such metric."""
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
            clips = read_clips(utterance, list(comparison.results), lambda path: read_audio(path, WAVE_RATE))
            page.add(clips)
            board.add(clips)
    with atomic_path(out / PAGE_NAME) as temporary:
        temporary.write_text(page.html(), encoding="utf-8")
    for warning in comparison.warnings:
        print(f"metis-lightning: {warning}", file=sys.stderr)
    print(f"page: {out / PAGE_NAME} ({(out / PAGE_NAME).stat().st_size / 1e6:.1f} MB, {page.count} utterances)")
    print(f"TensorBoard: python -m tensorboard.main --logdir {out / BOARD}")


class ComparePage:
    """Collects utterances, the worst first by a `metric` of a `system`, until the page is full; `count` are in it.

    Names, transcripts and reasons go into the page as data: the script never turns them into markup.
    """

    def __init__(self, comparison: Comparison, metric: str, system: str, max_bytes: int = MAX_PAGE_BYTES) -> None:
        self.comparison, self.metric, self.system = comparison, metric, system
        self._columns = {name: summary.column for name, summary in comparison.metrics.items()}
        self.count, self._room = 0, max_bytes
        self._utterances: list[str] = []
        self._is_full = False

    def add(self, clips: ClipSet) -> None:
        """Add an utterance with its sound and pictures, if there is room."""
        utterance = clips.utterance
        rows = [entry.row for entry in utterance.entries.values()]
        entries = []
        for system in self.comparison.results:
            clip = clips.clips.get(system)
            media = {
                "missing": clips.missing.get(system),
                "seconds": clip and len(clip.wave) / WAVE_RATE,
                "isCut": clip is not None and clip.is_cut,
                "audio": clip and opus_uri(clip.wave),
                "mel": clip and webp_uri(picture(clip.mel, clips.top)),
                "peaks": clip and _peaks(clip.wave.numpy()),
            }
            entries.append(self._scores(utterance.entries.get(system)) | media)
        record = {
            "id": utterance.id,
            "testSet": utterance.test_set,
            "speaker": utterance.speaker,
            "text": _shortened(utterance.text),
            "snr": next((row.facts["snr_db"] for row in rows if "snr_db" in row.facts), None),
            "entries": entries,
        }
        # Once one did not fit, none follows: the page shows the worst without a gap.
        text = _json(record)
        self._is_full = self._is_full or len(text) > self._room
        if not self._is_full:
            self._room -= len(text)
            self._utterances.append(text)
            self.count += 1

    def _scores(self, entry: Entry | None) -> dict[str, Any]:
        if entry is None:
            return {"values": {}, "failed": [], "compared": None, "errors": {}, "hypothesis": None}
        row = entry.row
        compared = row.wer and row.wer.compared
        values = {name: value for name, value in row.metrics.items() if name in self._columns}
        return {
            "values": {name: None if v is None else self._columns[name].scale * v for name, v in values.items()},
            "failed": list(row.failed),
            "compared": dict(zip(("text", "hypothesis"), map(_shortened, compared), strict=True)) if compared else None,
            "errors": {name: _shortened(reason) for name, reason in row.error.items()},
            "hypothesis": _shortened(row.hypothesis),
        }

    def html(self) -> str:
        """Return the page."""
        comparison = self.comparison
        metrics = [
            {
                "name": column.name,
                "label": column.quantity.replace("_", " "),
                "model": column.model,
                "unit": column.unit,
                "higher": column.higher_is_better,
                "decimals": 1 if column.unit else 2,
            }
            for column in self._columns.values()
        ]
        head = {
            "task": comparison.task,
            "systems": list(comparison.results),
            "metrics": metrics,
            "results": [_result(label, result) for label, part in comparison.results.items() for result in part],
            "sort": {"metric": self.metric, "system": self.system},
            "infinite": INFINITE,
            "warnings": list(comparison.warnings),
            "points": self._points(),
            "total": len(comparison.utterances),
            "isFull": self._is_full,
        }
        title = f"{comparison.task}: {', '.join(comparison.results)}"
        data = f'{{"head":{_json(head)},"utterances":[{",".join(self._utterances)}]}}'
        return render("compare", title, data=Markup(data))

    def _points(self) -> dict[str, Any]:
        """Return every value that plots need, of all utterances: by metric a list a system, in the items' order."""
        utterances = self.comparison.utterances
        values: dict[str, list[list[float | None]]] = {}
        for name, column in self._columns.items():
            lists = []
            for system in self.comparison.results:
                entries = [utterance.entries.get(system) for utterance in utterances]
                found = [None if entry is None else entry.row.value(name) for entry in entries]
                # Four digits are more than a plot shows.
                lists.append([None if value is None else float(f"{column.scale * value:.4g}") for value in found])
            values[name] = lists
        return {"items": [[u.test_set, u.id, u.speaker] for u in utterances], "values": values}


def _result(label: str, result: Result) -> dict[str, Any]:
    means = {}
    for name, summary in result.metrics.items():
        value = TableValue.of(summary, word_error_rule(result.test_set))
        means[name] = {
            "mean": value.mean,
            "low": value.low,
            "high": value.high,
            "clusters": f"{summary.n_clusters} {summary.clusters}",
            "nFailed": summary.n_failed,
            "isInfinite": value.is_infinite,
            "isAbsent": value.is_absent,
            "nCommon": summary.n_common,
            "nItems": summary.n_items,
        }
    return {
        "system": label,
        "testSet": result.test_set,
        "run": result.run,
        "protocol": result.protocol.mark,
        "n": result.count_text,
        "means": means,
    }


def _peaks(wave: np.ndarray) -> list[int]:
    """Return the peaks of parts of (S,) samples of one length, in hundredths of full scale."""
    parts = np.array_split(np.abs(wave), min(_PEAKS, max(1, len(wave))))
    return [min(100, round(100 * float(part.max(initial=0.0)))) for part in parts]


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def _json(content: object) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
