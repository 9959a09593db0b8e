"""The index of a manifest: columns of its utterances and where its lines begin, from one reading of it.

Beside a large `corpus.jsonl` it is kept as `corpus.jsonl.index.safetensors`, made anew if the manifest's size or time
of change is another, so that only the first run reads the manifest through.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metis_lightning.data.manifest.records import check_manifest, check_utterance, read_rows
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, digest64

# What the name of an index has after that of its manifest.
INDEX_SUFFIX = ".index.safetensors"
_FORMAT = "2"
# Lines from which an index is worth its file.
_MANY = 10_000

# The columns that hold codes of names.
Coded = Literal["speaker", "split", "language"]
_CODED: tuple[Coded, ...] = get_args(Coded)


@dataclass(frozen=True)
class ManifestIndex:
    """Columns of a manifest's N lines.

    names: (N,) int64, hashes of the ids.
    seconds: (N,) float64.
    dnsmos: (N,) float32, NaN where none is listed.
    speakers, splits, languages: (N,) int32, places in `code_names`.
    offsets: (N + 1,) int64, where the lines begin and the last one ends.
    """

    names: np.ndarray
    seconds: np.ndarray
    dnsmos: np.ndarray
    speakers: np.ndarray
    splits: np.ndarray
    languages: np.ndarray
    offsets: np.ndarray
    code_names: Mapping[Coded, Sequence[str]]


def index_rows(rows: Iterable[tuple[Mapping[str, Any], int]], end: int = 0) -> ManifestIndex:
    """Return the index of the fields of utterances, each with where its line begins; the last line ends at `end`."""
    names, seconds, dnsmos, offsets = array("q"), array("d"), array("f"), array("q")
    codes = {key: array("i") for key in _CODED}
    # Names become numbers in the order of their first use.
    code_names: dict[Coded, dict[str, int]] = {key: {} for key in _CODED}
    for row, offset in rows:
        names.append(digest64(row["id"]))
        seconds.append(row["seconds"])
        dnsmos.append(float("nan") if row["dnsmos"] is None else row["dnsmos"])
        offsets.append(offset)
        for key, column in codes.items():
            column.append(code_names[key].setdefault(row[key], len(code_names[key])))
    offsets.append(end)
    # In the order of the fields.
    values: list[Any] = [np.array(column) for column in (names, seconds, dnsmos, *codes.values(), offsets)]
    values.append({key: tuple(numbers) for key, numbers in code_names.items()})
    return ManifestIndex(*values)


def index_of(manifest: Path) -> ManifestIndex:
    """Return a manifest's index, kept beside it if it is long; a UserError if a line, id or checksum is wrong."""
    path, status = manifest.with_name(manifest.name + INDEX_SUFFIX), manifest.stat()
    state = {"format": _FORMAT, "bytes": str(status.st_size), "changed": str(status.st_mtime_ns)}
    if path.is_file() and (kept := _read_index(path, state)) is not None:
        return kept
    check_manifest(manifest)
    rows = ((check_utterance(row, where), offset) for row, offset, where in read_rows(manifest))
    # The size of before: a manifest that grows meanwhile is noticed when its lines are read.
    index = index_rows(rows, status.st_size)
    _check_unique(manifest, index.names)
    if len(index.names) >= _MANY:
        arrays = dict(vars(index))
        for key, names in arrays.pop("code_names").items():
            arrays[f"{key}_names"] = np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)
        # In a folder that cannot be written to, the next run reads the manifest through again.
        with suppress(UserError), atomic_path(path) as temporary:
            save_file(arrays, temporary, state)
    return index


def _read_index(path: Path, state: dict[str, str]) -> ManifestIndex | None:
    """Return an index; None if it is damaged, or of another state of the manifest."""
    try:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}) != state:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        code_names = {key: tuple(json.loads(arrays.pop(f"{key}_names").tobytes())) for key in _CODED}
        return ManifestIndex(**arrays, code_names=code_names)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        # A damaged index costs time, and no run: the manifest has all that it holds.
        return None


def _check_unique(manifest: Path, names: np.ndarray) -> None:
    """Refuse a manifest in which an id occurs twice; its lines are read again only if two hashes are equal."""
    ascending = np.sort(names)
    repeated = set(ascending[1:][ascending[1:] == ascending[:-1]].tolist())
    seen: dict[str, str] = {}
    for row, _, where in read_rows(manifest) if repeated else ():
        name = row["id"]
        if name in seen:
            raise UserError(f"{where}: id {name!r} occurs already at {seen[name]}; ids must be unique")
        if digest64(name) in repeated:
            seen[name] = where
