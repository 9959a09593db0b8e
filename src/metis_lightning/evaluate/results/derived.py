"""Columns that rows get after they were made: of other columns, and of other people's scores.

- `SI_SDR_gain`: SI-SDR less that of the control `input` on the same utterance.
- `WRONG_VOICE_…`: 1 where the voice is nearer to the interferer's than to the target's, so its mean is a rate.
- VERSA's scores: `RUN/scores/SYSTEM.jsonl`, a line an utterance with its id as `key`; columns are called `…_versa`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.metrics.metric import Column
from metis_lightning.safe_parsing import load_json

SCORES = "scores"
_INPUT, _GAIN = "input", Column("SI_SDR_gain", "SI_SDR_gain", "dB")
_VERSA = "versa"
# Fields of VERSA's lines that are no scores: what it says of the run, counts of edits, transcripts.
_NO_SCORE = re.compile(r"key|status|seed|model.*|protocol.*|_.*|.*text.*|.*_(insert|delete|replace|equal)", re.I)
# Parts of names of VERSA's scores of which less is better.
_LESS = re.compile(r"wer|cer|per$|mcd|rmse|lsd|dist|warpq|noresqa|nomad|_fd$|fad|kid", re.I)


def with_derived(rows: Sequence[ResultRow], columns: Mapping[str, Column]) -> tuple[list[ResultRow], dict[str, Column]]:
    """Return rows of a run with the columns that others give, and all columns by name."""
    made: dict[str, Column] = {}
    inputs = {row.item: row.value("SI_SDR") for row in rows if row.system == _INPUT}
    derived = []
    for row in rows:
        own = dict(row.metrics)
        # On the input itself there is nothing to gain.
        before, after = inputs.get(row.item), row.value("SI_SDR")
        if _GAIN.name not in own and row.system != _INPUT and before is not None and after is not None:
            own[_GAIN.name], made[_GAIN.name] = after - before, _GAIN
        for name in row.metrics:
            column = columns.get(name)
            margin = row.value(name) if column is not None and column.quantity == "SIM_margin" else None
            if column is not None and margin is not None:
                wrong = Column.by_model("WRONG_VOICE", str(column.model), unit="%", higher_is_better=False)
                own[wrong.name], made[wrong.name] = float(margin < 0), wrong
        derived.append(replace(row, metrics=own))
    return derived, {**columns, **made}


def with_scores(rows: Sequence[ResultRow], folder: Path) -> tuple[list[ResultRow], dict[str, Column], dict[str, str]]:
    """Return rows with the scores that lie in a run's folder, their columns, and the SHA-256 of each file by system.

    A `UserError` if a file is not VERSA's, or none of its ids is of the system.
    """
    columns: dict[str, Column] = {}
    hashes: dict[str, str] = {}
    scored = list(rows)
    for path in sorted((folder / SCORES).glob("*.jsonl")):
        lines = _read(path)
        places = [index for index, row in enumerate(scored) if row.system == path.stem]
        if not any(scored[index].id in lines for index in places):
            ids = f"the first is {next(iter(lines), None)!r}"
            raise UserError(f"{path}: no id is of the system {path.stem!r} of this run ({ids}); name it SYSTEM.jsonl")
        names = dict.fromkeys(key for line in lines.values() for key in line)
        made = {name: Column.by_model(name, _VERSA, higher_is_better=not _LESS.search(name)) for name in names}
        for index in places:
            scored[index] = _with_line(scored[index], lines.get(scored[index].id), made)
        columns |= {column.name: column for column in made.values()}
        hashes[path.stem] = hashlib.sha256(path.read_bytes()).hexdigest()
    return scored, columns, hashes


def _read(path: Path) -> dict[str, dict[str, Any]]:
    lines: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = load_json(text)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(line, dict) or not isinstance(line.get("key"), str):
            raise UserError(f"{path}, line {number}: no 'key' with the id of the utterance")
        numbers = {name: value for name, value in line.items() if not _NO_SCORE.fullmatch(name) and _is_number(value)}
        lines[line["key"]] = numbers
    return lines


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _with_line(row: ResultRow, line: Mapping[str, Any] | None, columns: Mapping[str, Column]) -> ResultRow:
    metrics, errors, failed = dict(row.metrics), dict(row.error), list(row.failed)
    for name, column in columns.items():
        value = None if line is None else line.get(name)
        is_finite = value is not None and math.isfinite(value)
        metrics[column.name] = float(value) if is_finite and value is not None else None
        if not is_finite:
            errors[column.name] = f"{'not' if line is None else 'no finite number'} in the file of scores"
            failed.append(column.name)
    return replace(row, metrics=metrics, error=errors, failed=failed)
