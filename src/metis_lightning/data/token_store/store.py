"""Files of the token store: arrays of many recordings in one safetensors file, with what tells whose they are.

A shard holds one kind of array (SSL tokens, acoustic tokens or SSL features) of one tokenizer:

    values   (sum of T, …)   the arrays one after another
    offsets  (N + 1,) int64  where each of them begins and ends
    names    (N,) int64      64 bits of a hash of the utterance's id
    stamps   (N,) int64      64 bits that change when the file of the audio does, see `stamp_of`
    audio    (N, 32) uint8   SHA-256 of the audio itself, see `audio_hash`
    samples  (N,) int64      samples of the audio at 24 kHz

and in its header the kind and the tokenizer's fingerprint. It is written whole, under the hash of its content.

The token store: SSL tokens, acoustic tokens and SSL features of a corpus, computed once and read in training.

    ROOT/ssl-3f0c…/5b1e….safetensors      one folder for each kind and fingerprint of what makes it

So tokens of a changed tokenizer lie in another folder, and each array is found by the audio that it was made of: its
utterance's id and stamp (size and time of change of the file), or, where the stamp is another, the hash of the audio.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metis_lightning.data.media.storage import location_stamp
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


SSL, ACOUSTIC, FEATURES = KINDS = ("ssl", "acoustic", "features")

# Shards that are open at a time in a process; each is mapped into memory, not read.
_OPEN = 128

_WIDE, _NARROW = ("name", "stamp", "samples", "start"), ("frames", "shard", "row")
_ROW = np.dtype([(column, "i8") for column in _WIDE] + [(column, "i4") for column in _NARROW])


def store_folder(root: Path, kind: str, fingerprint: str) -> Path:
    """Return where the arrays of a kind lie that the tokenizer of a fingerprint makes."""
    return Path(root) / f"{kind}-{fingerprint[:16]}"


class TokenStore:
    """The arrays of one kind and one tokenizer. In memory are 44 bytes a recording; values are read from disk."""

    def __init__(self, root: Path, kind: str, fingerprint: str) -> None:
        """Read the index of every shard; a folder that is not there is an empty store.

        Raises:
            UserError: if a file is damaged or was made by another tokenizer.
        """
        self.folder = store_folder(root, kind, fingerprint)
        self.shards = sorted(self.folder.glob(f"[!.]*{SUFFIX}"))
        parts = [np.empty(0, dtype=_ROW)]
        for number, path in enumerate(self.shards):
            index = read_index(path, kind, fingerprint)
            part = np.empty(len(index.names), dtype=_ROW)
            part["name"], part["stamp"], part["samples"] = index.names, index.stamps, index.samples
            part["start"], part["frames"] = index.offsets[:-1], index.offsets.diff()
            part["shard"], part["row"] = number, np.arange(len(part))
            parts.append(part)
        rows = np.concatenate(parts)
        self._rows = rows[np.argsort(rows["name"], kind="stable")]
        self._names = np.ascontiguousarray(self._rows["name"])
        self._recognised: dict[str, int] = {}
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which opens the shards itself."""
        return {**self.__dict__, "_open": OrderedDict()}

    def holds(self, utterance: Utterance) -> bool:
        """Tell whether there is an array of an utterance's audio as its file is now, by its stamp alone."""
        try:
            stamp = stamp_of(utterance)
        except FileNotFoundError:
            return False
        return self._row_of(digest64(utterance.id), stamp) is not None

    def knows(self, recording: Recording) -> bool:
        """Tell whether there is an array of a recording."""
        return self._row_of(recording.name, recording.stamp) is not None

    def check(self, names: np.ndarray) -> None:
        """Refuse a corpus of which some utterances were never prepared, given the hashes of their ids (N,).

        Raises:
            UserError: with how many.
        """
        places = np.searchsorted(self._names, names)
        known = places < len(self._names)
        known[known] = self._names[places[known]] == names[known]
        if not known.all():
            raise UserError(
                f"{self.folder}: it lacks {(~known).sum()} of {len(names)} utterances; run `prepare tokens` with this "
                "config, whose tokenizer is the one that this folder is named after"
            )

    def samples(self, utterance: Utterance, audio: Callable[[], Tensor]) -> int:
        """Return how many samples at 24 kHz an utterance has, as `read` finds it."""
        return int(self._rows["samples"][self._find(utterance, audio)])

    def read(self, utterance: Utterance, audio: Callable[[], Tensor]) -> Tensor:
        """Return the array (T, …) of an utterance.

        Args:
            utterance: whose audio it is.
            audio: returns the audio as `SpeechCorpus.samples` does; called only if its file was touched since.

        Raises:
            UserError: if there is none of this audio.
        """
        found = self._rows[self._find(utterance, audio)]
        start, shard = int(found["start"]), self._shard(int(found["shard"]))
        return shard.get_slice("values")[start : start + int(found["frames"])]

    def _find(self, utterance: Utterance, audio: Callable[[], Tensor]) -> int:
        name = digest64(utterance.id)
        candidates = self._candidates(name)
        try:
            row = self._row_of(name, stamp_of(utterance))
        except FileNotFoundError:
            # Tokens without their audio, as on a machine that only trains: nothing there contradicts them.
            if len(candidates) == 1:
                return candidates[0]
            raise self._lacks(utterance, f"{len(candidates)} arrays of this id, and no audio to tell which") from None
        if row is not None:
            return row
        if utterance.id not in self._recognised:
            self._recognised[utterance.id] = self._by_audio(utterance, candidates, audio)
        return self._recognised[utterance.id]

    def _by_audio(self, utterance: Utterance, candidates: range, audio: Callable[[], Tensor]) -> int:
        wanted = audio_hash(audio()) if candidates else b""
        for row in candidates:
            if self._audio_hash(self._rows[row]) == wanted:
                return row
        raise self._lacks(utterance, "its audio has changed" if candidates else "it was never prepared")

    def _audio_hash(self, found: np.void) -> bytes:
        row = int(found["row"])
        return bytes(self._shard(int(found["shard"])).get_slice("audio")[row : row + 1].numpy().tobytes())

    def _candidates(self, name: int) -> range:
        return range(int(np.searchsorted(self._names, name)), int(np.searchsorted(self._names, name, side="right")))

    def _row_of(self, name: int, stamp: int) -> int | None:
        return next((row for row in self._candidates(name) if self._rows["stamp"][row] == stamp), None)

    def _lacks(self, utterance: Utterance, why: str) -> UserError:
        return UserError(f"{self.folder}: no tokens of utterance {utterance.id!r}: {why}; run `prepare tokens` again")

    def _shard(self, number: int) -> Any:  # noqa: ANN401  safetensors has no type for it
        if number not in self._open:
            self._open[number] = safe_open(self.shards[number], "pt")
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]
