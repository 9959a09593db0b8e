"""Files of the token store: arrays of many recordings in one safetensors file, with what tells whose they are.

A shard holds one kind of array (SSL tokens, acoustic tokens or SSL features) of one tokenizer:

    values   (sum of T, …)   the arrays one after another
    offsets  (N + 1,) int64  where each of them begins and ends
    names    (N,) int64      64 bits of a hash of the utterance's id
    stamps   (N,) int64      64 bits that change when the file of the audio does, see `stamp_of`
    audio    (N, 32) uint8   SHA-256 of the audio itself, see `audio_hash`
    samples  (N,) int64      samples of the audio at 24 kHz

and in its header the kind and the tokenizer's fingerprint. It is written whole, under the hash of its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metis_lightning.data.storage import location_stamp
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, digest64
from metis_lightning.types import Utterance

FORMAT = "1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Recording:
    """Which audio an array belongs to: the columns of a shard."""

    name: int
    stamp: int
    audio: bytes
    samples: int


@dataclass(frozen=True)
class ShardIndex:
    """What a shard holds, without its values; the columns are those of the module's text."""

    offsets: Tensor
    names: Tensor
    stamps: Tensor
    audio: Tensor
    samples: Tensor


def stamp_of(utterance: Utterance) -> int:
    """Return bits that change when the file of an utterance's audio does: its size, time of change, and speed.

    They spare reading the audio to see whether it is the one that the tokens were made of.

    Raises:
        FileNotFoundError: if the audio is not there.
    """
    path = utterance.path
    stamp = location_stamp(path) if isinstance(path, Path) else path.stamp()
    return digest64(f"{stamp}|{utterance.speed!r}")


def audio_hash(samples: Tensor) -> bytes:
    """Return the SHA-256 of audio (S,) int16 as `SpeechCorpus.samples` gives it: what tokens are made of."""
    return hashlib.sha256(samples.contiguous().numpy().tobytes()).digest()


class ShardWriter:
    """Collects arrays of one kind and writes them as shards of `size` recordings."""

    def __init__(self, folder: Path, kind: str, fingerprint: str, size: int) -> None:
        """Name the folder of the shards, what they hold and which tokenizer made it."""
        self.folder, self.size = folder, size
        self._header = {"format": FORMAT, "kind": kind, "fingerprint": fingerprint}
        self._rows: list[tuple[Recording, Tensor]] = []

    def add(self, recording: Recording, values: Tensor) -> None:
        """Take the array (T, …) of a recording; it is on disk after `size` of them, or `flush`."""
        self._rows.append((recording, values.cpu().contiguous()))
        if len(self._rows) >= self.size:
            self.flush()

    def flush(self) -> None:
        """Write what was collected, if anything."""
        if not self._rows:
            return
        content = save(_tensors(self._rows), self._header)
        with atomic_path(self.folder / f"{hashlib.sha256(content).hexdigest()[:16]}{SUFFIX}") as temporary:
            temporary.write_bytes(content)
        self._rows = []


def _tensors(rows: Sequence[tuple[Recording, Tensor]]) -> dict[str, Tensor]:
    recordings, values = [recording for recording, _ in rows], [values for _, values in rows]
    lengths = torch.tensor([0, *map(len, values)])
    return {
        "values": torch.cat(values),
        "offsets": lengths.cumsum(0),
        "names": torch.tensor([recording.name for recording in recordings]),
        "stamps": torch.tensor([recording.stamp for recording in recordings]),
        "audio": torch.tensor([list(recording.audio) for recording in recordings], dtype=torch.uint8),
        "samples": torch.tensor([recording.samples for recording in recordings]),
    }


def read_index(path: Path, kind: str, fingerprint: str) -> ShardIndex:
    """Return what a shard holds.

    Raises:
        UserError: if the file is no shard, or holds another kind or another tokenizer's.
    """
    try:
        with safe_open(path, "pt") as shard:
            header = shard.metadata() or {}
            columns = {name: shard.get_tensor(name) for name in ("offsets", "names", "stamps", "audio", "samples")}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a shard of a token store ({error}); remove it and prepare again") from error
    expected = {"format": FORMAT, "kind": kind, "fingerprint": fingerprint}
    if header != expected:
        raise UserError(f"{path}: holds {header}, this folder is for {expected}; remove it and prepare again")
    return ShardIndex(**columns)
