"""Systems side by side as one HTML page: players, spectrograms and metrics, with no file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metis_lightning.evaluate.compare.clips import Clip, Heard
from metis_lightning.evaluate.html.document import asset, data_uri, document, opus
from metis_lightning.evaluate.html.spectrogram import picture, webp
from metis_lightning.evaluate.results.columns import Column, word_errors_of
from metis_lightning.evaluate.results.comparison import Comparison, Entry
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.stats import failed_of
from metis_lightning.evaluate.tables.matching import Measured
from metis_lightning.metrics.metric import INFINITE
from metis_lightning.types import WAVE_RATE

MAX_BYTES = 64_000_000
"""Utterances that would make the page larger than this are left out, and the page says so."""

_MAX_TEXT = 2000  # characters of a transcript: a recognizer that loops writes without end


class ComparePage:
    """Collects utterances, the worst first, until the page is full.

    Everything that came with the results (names, transcripts, reasons) goes into the page as data and is shown as text:
    the script never turns it into markup.

    Args:
        comparison: what is compared.
        metric: by which utterances are ordered.
        system: whose.
        total: how many utterances there are in all, shown or not.
        max_bytes: of the page.
    """

    def __init__(
        self, comparison: Comparison, metric: str, system: str, total: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self.comparison, self.metric, self.system, self.total = comparison, metric, system, total
        self._room = max_bytes
        self._utterances: list[str] = []
        self._is_full = False

    @property
    def count(self) -> int:
        """Return how many utterances are in the page."""
        return len(self._utterances)

    def add(self, heard: Heard) -> bool:
        """Add an utterance with its sound and pictures, and return whether there was room."""
        utterance = heard.utterance
        entries = [
            _entry(utterance.entries.get(system), heard.clips.get(system), heard.missing.get(system), heard.top)
            for system in self.comparison.systems
        ]
        record = {
            "id": utterance.id,
            "testSet": utterance.test_set,
            "speaker": utterance.speaker,
            "text": _short(utterance.text),
            "entries": entries,
        }
        text = _json(record)
        self._is_full = self._is_full or len(text) > self._room
        if not self._is_full:
            self._room -= len(text)
            self._utterances.append(text)
        return not self._is_full

    def html(self) -> str:
        """Return the page."""
        title = f"{self.comparison.task}: {', '.join(self.comparison.systems)}"
        data = f'{{"head":{_json(self._head())},"utterances":[{",".join(self._utterances)}]}}'
        body = f'<div id="app"></div>\n<script id="data" type="application/json">{data}</script>'
        return document(title, asset("base.css") + asset("compare.css"), body, asset("compare.js"))

    def _head(self) -> dict[str, Any]:
        """Return what is not of one utterance."""
        return {
            "task": self.comparison.task,
            "systems": self.comparison.systems,
            "metrics": [_metric(name) for name in self.comparison.metrics],
            "results": [
                _result(label, result) for label, results in self.comparison.results.items() for result in results
            ],
            "sort": {"metric": self.metric, "system": self.system},
            "infinite": INFINITE,
            "warnings": list(self.comparison.warnings),
            "total": self.total,
            "isFull": self._is_full,
        }


def _entry(entry: Entry | None, clip: Clip | None, missing: str | None, top: float) -> dict[str, Any]:
    """Return what one system made of an utterance."""
    row: Mapping[str, Any] = entry.row if entry else {"metrics": {}}
    values = {name: None if value is None else Column.of(name).scale * value for name, value in row["metrics"].items()}
    wer = row.get("wer") or {}
    return {
        "values": values,
        "failed": list(failed_of(row)) if entry else [],
        "compared": {key: _short(wer[key]) for key in ("text", "hypothesis")} if "hypothesis" in wer else None,
        "errors": {name: _short(str(reason)) for name, reason in (row.get("error") or {}).items()},
        "hypothesis": _short(row.get("hypothesis")),
        "missing": missing,
        "seconds": None if clip is None else len(clip.wave) / WAVE_RATE,
        "isCut": clip is not None and clip.is_cut,
        "audio": None if clip is None else data_uri("audio/ogg", opus(clip.wave)),
        "mel": None if clip is None else data_uri("image/webp", webp(picture(clip.mel, top))),
    }


def _metric(name: str) -> dict[str, Any]:
    """Return how a metric is shown."""
    column = Column.of(name)
    label = column.quantity.replace("_", " ")
    return {
        "name": name,
        "label": label,
        "model": column.model,
        "unit": column.unit,
        "higher": column.higher_is_better,
        "decimals": 1 if column.unit else 2,
    }


def _result(label: str, result: Result) -> dict[str, Any]:
    """Return a system's summary on a test set."""
    means = {}
    for name in result.metrics:
        found = Measured.of(result.metrics, name, Column.of(name).scale, word_errors_of(result.test_set))
        means[name] = {
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "clusters": f"{found.n_clusters} {found.clusters}",
            "nFailed": found.n_failed,
            "isInfinite": found.is_infinite,
            "isAbsent": found.is_absent,
            "nCommon": result.metrics[name]["n_common"],
            "nItems": result.metrics[name]["n_items"],
        }
    return {
        "system": label,
        "testSet": result.test_set,
        "run": result.run,
        "protocol": result.protocol.mark,
        "n": result.count_text,
        "means": means,
    }


def _short(text: str | None) -> str | None:
    """Return a text without what is beyond any use."""
    return text if text is None or len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def _json(content: object) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
