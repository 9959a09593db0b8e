"""The index beside a large manifest: columns and where its lines begin, so that only the first run reads it through.

`corpus.jsonl` has `corpus.jsonl.index.safetensors`. It may be deleted at any time, and is made anew if the manifest's
size or time of change is another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metis_lightning.files import atomic_path

FORMAT = "1"

# Lines from which an index is worth its file.
_MANY = 10_000


@dataclass(frozen=True)
class ManifestIndex:
    """What is known of a manifest's N lines.

    names: (N,) int64, hashes of the ids.
    seconds: (N,) float64.
    speakers, splits: (N,) int32, places in `speaker_names` and `split_names`.
    offsets: (N + 1,) int64, where the lines begin and the last one ends.
    """

    names: np.ndarray
    seconds: np.ndarray
    speakers: np.ndarray
    splits: np.ndarray
    offsets: np.ndarray
    speaker_names: tuple[str, ...]
    split_names: tuple[str, ...]


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
        speakers, splits = (tuple(json.loads(arrays.pop(key).tobytes())) for key in ("speaker_names", "split_names"))
        return ManifestIndex(**arrays, speaker_names=speakers, split_names=splits)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        # Whatever it is, the manifest itself says all that it could.
        return None


def write_manifest_index(manifest: Path, index: ManifestIndex) -> None:
    """Write the index of a large manifest beside it, unless the folder cannot be written to."""
    if len(index.names) < _MANY:
        return
    arrays = {name: getattr(index, name) for name in ("names", "seconds", "speakers", "splits", "offsets")}
    for key in ("speaker_names", "split_names"):
        arrays[key] = np.frombuffer(json.dumps(getattr(index, key)).encode(), dtype=np.uint8)
    try:
        with atomic_path(index_path(manifest)) as temporary:
            save_file(arrays, temporary, _state(manifest))
    except PermissionError:
        return


def _state(manifest: Path) -> dict[str, str]:
    status = manifest.stat()
    return {"format": FORMAT, "bytes": str(status.st_size), "changed": str(status.st_mtime_ns)}
