"""Small results on disk, as `evaluate` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SPEAKERS = ("anna", "ben", "carla", "dora", "emil", "fay", "gus")
PAPER = ("WER_whisper-large-v3", "DNSMOS_SIG", "DNSMOS_BAK", "DNSMOS_OVRL", "NISQA", "SIM_wavlm-large")
OFFLINE = ("WER_tiny.en", "DNSMOS_SIG", "SIM_ge2e")


def rows_of(
    system: str, better: float = 0.0, test_set: str = "librimix", metrics: tuple[str, ...] = PAPER, task: str = "tse"
) -> list[dict[str, Any]]:
    """Two utterances of each speaker, whose values grow by `better`; the first has no transcript."""
    rows = []
    for index in range(2 * len(SPEAKERS)):
        wer = None if index == 0 else {"edits": index % 4, "words": 10}
        values: dict[str, float | None] = {
            name: round(0.6 + 0.02 * index + better + 0.01 * column, 6) for column, name in enumerate(metrics)
        }
        values[metrics[0]] = None if wer is None else wer["edits"] / wer["words"]
        rows.append(
            {
                "id": f"utt-{index:02}",
                "task": task,
                "test_set": test_set,
                "system": system,
                "speaker": SPEAKERS[index // 2],
                "metrics": values,
                "error": {metrics[0]: "no reference text"} if wer is None else {},
                "failed": [],
                "wer": wer,
                "n_samples": 12_000,
                "seconds": 0.1,
                "hypothesis": None if wer is None else f"words of {index}",
                "text": f"the words of number {index}",
            }
        )
    return rows


def in_two_languages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let every second row, the first too, have its word errors by another recogniser, `base`."""
    for row in rows[::2]:
        for values in (row["metrics"], row["error"]):
            values |= {"WER_base": values.pop("WER_tiny.en")} if "WER_tiny.en" in values else {}
    return rows


def write_run(results: Path, name: str, rows: list[dict[str, Any]], **protocol: Any) -> Path:
    """Write a run's rows, an empty summary, and a protocol with these fields."""
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text("[]\n")
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(row["test_set"], []).append(row["id"])
    fields = {
        "task": rows[0]["task"],
        "seed": 0,
        "ids": {test_set: list(dict.fromkeys(names)) for test_set, names in ids.items()},
        "systems": {row["system"]: {"bundle": f"hash of {row['system']}"} for row in rows},
        "metrics": {"protocol": "paper"},
        "fingerprint": f"of-{name}",
    }
    (folder / "protocol.json").write_text(json.dumps(fields | protocol))
    return folder


def write_wavs(folder: Path, rows: list[dict[str, Any]], seconds: float = 0.5) -> None:
    """Write a tone of its own for each row's system and id."""
    time = np.arange(int(24_000 * seconds)) / 24_000
    for index, row in enumerate(rows):
        path = folder / "wavs" / row["system"] / f"{row['id']}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 40 * index) * time), 24_000)
