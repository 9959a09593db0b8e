"""The index of a manifest: columns of its utterances and where its lines begin, from one reading of it.

Beside a large `corpus.jsonl` it is kept as `corpus.jsonl.index.safetensors`, so that only the first run reads the
manifest through. That file may be deleted at any time, and is made anew if the manifest's size or time of change is
another.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metis_lightning.data.manifest.records import check_manifest, check_utterance
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, digest64

INDEX_SUFFIX = ".index.safetensors"
"""What the name of an index has after that of its manifest."""

_FORMAT = "2"
_NAMES = ("speaker_names", "split_names", "language_names")

# Lines from which an index is worth its file.
_MANY = 10_000


@dataclass(frozen=True)
class ManifestIndex:
    """Columns of a manifest's N lines.

    names: (N,) int64, hashes of the ids.
    seconds: (N,) float64.
    dnsmos: (N,) float32, NaN where none is listed.
    speakers, splits, languages: (N,) int32, places in `speaker_names`, `split_names` and `language_names`.
    offsets: (N + 1,) int64, where the lines begin and the last one ends.
    """

    names: np.ndarray
    seconds: np.ndarray
    dnsmos: np.ndarray
    speakers: np.ndarray
    splits: np.ndarray
    languages: np.ndarray
    offsets: np.ndarray
    speaker_names: tuple[str, ...]
    split_names: tuple[str, ...]
    language_names: tuple[str, ...]


class IndexBuilder:
    """Columns as they grow; names become numbers in the order of their first use."""

    def __init__(self) -> None:
        self.names, self.seconds, self.dnsmos, self.offsets = array("q"), array("d"), array("f"), array("q")
        self.codes = {key: array("i") for key in ("speaker", "split", "language")}
        self.code_names: dict[str, dict[str, int]] = {key: {} for key in self.codes}

    def add(self, utterance: Mapping[str, Any], offset: int = 0) -> None:
        """Add the fields of an utterance, whose line begins at `offset`."""
        self.names.append(digest64(utterance["id"]))
        self.seconds.append(utterance["seconds"])
        self.dnsmos.append(float("nan") if utterance["dnsmos"] is None else utterance["dnsmos"])
        self.offsets.append(offset)
        for key, codes in self.codes.items():
            names = self.code_names[key]
            codes.append(names.setdefault(utterance[key], len(names)))

    def index(self, end: int = 0) -> ManifestIndex:
        """Return what was added; the last line ends at `end`."""
        self.offsets.append(end)
        speakers, splits, languages = (np.array(codes, dtype=np.int32) for codes in self.codes.values())
        speaker_names, split_names, language_names = map(tuple, self.code_names.values())
        return ManifestIndex(
            names=np.array(self.names, dtype=np.int64),
            seconds=np.array(self.seconds, dtype=np.float64),
            dnsmos=np.array(self.dnsmos, dtype=np.float32),
            speakers=speakers,
            splits=splits,
            languages=languages,
            offsets=np.array(self.offsets, dtype=np.int64),
            speaker_names=speaker_names,
            split_names=split_names,
            language_names=language_names,
        )


def index_of(manifest: Path) -> ManifestIndex:
    """Return a manifest's index, kept beside it if it is long; a UserError if a line, id or checksum is wrong."""
    path, status = manifest.with_name(manifest.name + INDEX_SUFFIX), manifest.stat()
    state = {"format": _FORMAT, "bytes": str(status.st_size), "changed": str(status.st_mtime_ns)}
    if path.is_file() and (kept := _read_index(path, state)) is not None:
        return kept
    check_manifest(manifest)
    builder, end = IndexBuilder(), 0
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                builder.add(check_utterance(line, f"{manifest}:{number}"), end)
            end += len(line)
    index = builder.index(end)
    _check_unique(manifest, index.names)
    if len(index.names) >= _MANY:
        arrays = {field.name: getattr(index, field.name) for field in fields(index)}
        for key in _NAMES:
            arrays[key] = np.frombuffer(json.dumps(arrays[key]).encode(), dtype=np.uint8)
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
        names: Any = {key: tuple(json.loads(arrays.pop(key).tobytes())) for key in _NAMES}
        return ManifestIndex(**arrays, **names)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        # A damaged index costs time, and no run: the manifest has all that it holds.
        return None


def _check_unique(path: Path, names: np.ndarray) -> None:
    """Refuse a manifest in which an id occurs twice; its lines are read again only if two hashes are equal."""
    ascending = np.sort(names)
    repeated = set(ascending[1:][ascending[1:] == ascending[:-1]].tolist())
    if not repeated:
        return
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            name = check_utterance(line, f"{path}:{number}")["id"]
            if name in seen:
                raise UserError(
                    f"{path}:{number}: id {name!r} occurs already at {path}:{seen[name]}; ids must be unique"
                )
            if digest64(name) in repeated:
                seen[name] = number
