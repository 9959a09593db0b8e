"""The index beside a large manifest: columns and where its lines begin, so that only the first run reads it through.

`corpus.jsonl` has `corpus.jsonl.index.safetensors`. It may be deleted at any time, and is made anew if the manifest's
size or time of change is another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path

FORMAT = "2"

_NAMES = ("speaker_names", "split_names", "language_names")

# Lines from which an index is worth its file.
_MANY = 10_000


@dataclass(frozen=True)
class ManifestIndex:
    """What is known of a manifest's N lines.

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


def index_path(manifest: Path) -> Path:
    """Return where a manifest's index is."""
    return manifest.with_name(f"{manifest.name}.index.safetensors")


def read_manifest_index(manifest: Path) -> ManifestIndex | None:
    """Return the index beside a manifest; None if there is none, or it is of another state of the manifest."""
    path = index_path(manifest)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}) != _state(manifest):
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        names: Any = {key: tuple(json.loads(arrays.pop(key).tobytes())) for key in _NAMES}
        return ManifestIndex(**arrays, **names)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        # Whatever it is, the manifest itself says all that it could.
        return None


def write_manifest_index(manifest: Path, index: ManifestIndex) -> None:
    """Write the index of a large manifest beside it, unless the folder cannot be written to."""
    if len(index.names) < _MANY:
        return
    arrays = {field.name: getattr(index, field.name) for field in fields(index)}
    for key in _NAMES:
        arrays[key] = np.frombuffer(json.dumps(arrays[key]).encode(), dtype=np.uint8)
    try:
        with atomic_path(index_path(manifest)) as temporary:
            save_file(arrays, temporary, _state(manifest))
    except UserError:
        return


def _state(manifest: Path) -> dict[str, str]:
    status = manifest.stat()
    return {"format": FORMAT, "bytes": str(status.st_size), "changed": str(status.st_mtime_ns)}
