"""The token store: SSL tokens, acoustic tokens and SSL features of a corpus, computed once and read in training.

    ROOT/ssl-3f0c…/5b1e….safetensors      one folder for each kind and fingerprint of what makes it

So tokens of a changed tokenizer lie in another folder, and each array is found by the audio that it was made of: its
utterance's id and stamp (size and time of change of the file), or, where the stamp is another, the hash of the audio.
A shard is one file, written whole under the hash of its content, with the arrays of many recordings:

    values   (sum of T, …)   the arrays one after another
    offsets  (N + 1,) int64  where each of them begins and ends
    names    (N,) int64      64 bits of a hash of the utterance's id
    stamps   (N,) int64      64 bits that change when the file of the audio does, see `stamp_of`
    audio    (N, 32) uint8   SHA-256 of the audio itself, see `audio_hash`
    samples  (N,) int64      samples of the audio at 24 kHz

and in its header the kind and the tokenizer's fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.storage import location_stamp
from metis_lightning.data.recipes.recipe import Segment, SpeechItem
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, digest64
from metis_lightning.types import HOP, Utterance

SSL, ACOUSTIC, FEATURES = KINDS = ("ssl", "acoustic", "features")

_FORMAT = "1"
_SUFFIX = ".safetensors"
# One array in memory: where it lies (shard, first frame, frames, row) and whose it is.
_ROW = np.dtype(
    [(column, "i8") for column in ("name", "stamp", "samples", "start")]
    + [(column, "i4") for column in ("frames", "shard", "row")]
)


@dataclass(frozen=True)
class AudioKey:
    """Which audio an array belongs to; the fields are columns of a shard."""

    name: int
    stamp: int
    audio: bytes
    samples: int


def stamp_of(utterance: Utterance) -> int:
    """Return bits that change when the file of an utterance's audio does; a FileNotFoundError if it is not there."""
    path = utterance.path
    stamp = location_stamp(path) if isinstance(path, Path) else path.stamp()
    return digest64(f"{stamp}|{utterance.speed!r}")


def audio_hash(samples: Tensor) -> bytes:
    """Return the SHA-256 of audio (S,) int16 as `SpeechCorpus.samples` gives it: what tokens are made of."""
    return hashlib.sha256(samples.contiguous().numpy().tobytes()).digest()


class ShardWriter:
    """Collects arrays of one kind and writes them as shards of `size` recordings."""

    def __init__(self, folder: Path, kind: str, fingerprint: str, size: int) -> None:
        self.folder, self.size = folder, size
        self._header = {"format": _FORMAT, "kind": kind, "fingerprint": fingerprint}
        self._rows: list[tuple[AudioKey, Tensor]] = []

    def add(self, key: AudioKey, values: Tensor) -> None:
        """Take the array (T, …) of a recording; it is on disk after `size` of them, or `flush`."""
        self._rows.append((key, values.cpu().contiguous()))
        if len(self._rows) >= self.size:
            self.flush()

    def flush(self) -> None:
        """Write what was collected, if anything."""
        if not self._rows:
            return
        keys, values = zip(*self._rows, strict=True)
        columns = {
            "values": torch.cat(values),
            "offsets": torch.tensor([0, *map(len, values)]).cumsum(0),
            "names": torch.tensor([key.name for key in keys]),
            "stamps": torch.tensor([key.stamp for key in keys]),
            "audio": torch.tensor([list(key.audio) for key in keys], dtype=torch.uint8),
            "samples": torch.tensor([key.samples for key in keys]),
        }
        content = save(columns, self._header)
        with atomic_path(self.folder / f"{hashlib.sha256(content).hexdigest()[:16]}{_SUFFIX}") as temporary:
            temporary.write_bytes(content)
        self._rows = []


class TokenStore:
    """The arrays of one kind and one tokenizer, with 44 bytes of each in memory; without a folder there are none."""

    def __init__(self, root: Path, kind: str, fingerprint: str) -> None:
        """Read the index of every shard; a UserError if a file is damaged or was made by another tokenizer."""
        self.folder = Path(root) / f"{kind}-{fingerprint[:16]}"
        self.shards = sorted(self.folder.glob(f"[!.]*{_SUFFIX}"))
        header = {"format": _FORMAT, "kind": kind, "fingerprint": fingerprint}
        parts = [_read_rows(path, number, header) for number, path in enumerate(self.shards)]
        rows = np.concatenate([np.empty(0, dtype=_ROW), *parts])
        self._rows = rows[np.argsort(rows["name"], kind="stable")]
        # Sorted and in one stretch of memory, for the binary search of every look-up.
        self._names = np.ascontiguousarray(self._rows["name"])
        self._rows_by_audio: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, utterance: Utterance) -> bool:
        """Tell whether there is an array of an utterance's audio as its file is now, by its stamp alone."""
        try:
            return self.find(digest64(utterance.id), stamp_of(utterance)) is not None
        except FileNotFoundError:
            return False

    def find(self, name: int, stamp: int) -> int | None:
        """Return the row of an array by the hash of its utterance's id and its stamp; None if there is none."""
        for row in self._rows_named(name):
            if self._rows["stamp"][row] == stamp:
                return row
        return None

    def check(self, names: np.ndarray) -> None:
        """Refuse a corpus by a UserError if some of its ids, given their hashes (N,), were never prepared."""
        places = np.searchsorted(self._names, names)
        is_stored = places < len(self._names)
        is_stored[is_stored] = self._names[places[is_stored]] == names[is_stored]
        if not is_stored.all():
            raise UserError(
                f"{self.folder}: it lacks {(~is_stored).sum()} of {len(names)} utterances; run `prepare tokens` with "
                "this config, whose tokenizer is the one that this folder is named after"
            )

    def samples(self, utterance: Utterance, audio: Callable[[], Tensor]) -> int:
        """Return how many samples at 24 kHz an utterance has, as `read` finds it."""
        return int(self._rows["samples"][self._row(utterance, audio)])

    def read(self, utterance: Utterance, audio: Callable[[], Tensor]) -> Tensor:
        """Return the array (T, …) of an utterance; a UserError if there is none of this audio."""
        row = self._rows[self._row(utterance, audio)]
        start, shard = int(row["start"]), _open_shard(self.shards[row["shard"]])
        return shard.get_slice("values")[start : start + int(row["frames"])]

    def _row(self, utterance: Utterance, audio: Callable[[], Tensor]) -> int:
        """Return the row of an utterance; `audio`, its `SpeechCorpus.samples`, is read only if the file was touched."""
        name = digest64(utterance.id)
        candidates = self._rows_named(name)
        try:
            row = self.find(name, stamp_of(utterance))
        except FileNotFoundError:
            # Tokens without their audio, as on a machine that only trains: nothing there contradicts them.
            if len(candidates) == 1:
                return candidates[0]
            reason = f"{len(candidates)} arrays of this id, and no audio to tell which"
        else:
            row = self._rows_by_audio.get(utterance.id) if row is None else row
            if row is None and candidates:
                # A copied or touched file has another stamp; whether its sound is the same only its hash can tell.
                expected = audio_hash(audio())
                for candidate in candidates:
                    number, shard = (int(self._rows[column][candidate]) for column in ("row", "shard"))
                    hashes = _open_shard(self.shards[shard]).get_slice("audio")[number : number + 1]
                    if hashes.numpy().tobytes() == expected:
                        row = self._rows_by_audio[utterance.id] = candidate
                        break
            if row is not None:
                return row
            reason = "its audio has changed" if candidates else "it was never prepared"
        raise UserError(f"{self.folder}: no tokens of utterance {utterance.id!r}: {reason}; run `prepare tokens` again")

    def _rows_named(self, name: int) -> range:
        first = int(np.searchsorted(self._names, name))
        end = int(np.searchsorted(self._names, name, side="right"))
        return range(first, end)


# Each shard is mapped into memory, not read.
@lru_cache(maxsize=256)
def _open_shard(path: Path) -> Any:  # noqa: ANN401  safetensors has no type for it
    return safe_open(path, "pt")


def _read_rows(path: Path, number: int, expected: dict[str, str]) -> np.ndarray:
    try:
        with safe_open(path, "pt") as shard:
            header = shard.metadata() or {}
            columns = {name: shard.get_tensor(name) for name in ("offsets", "names", "stamps", "samples")}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a shard of a token store ({error}); remove it and prepare again") from error
    if header != expected:
        raise UserError(f"{path}: holds {header}, this folder is for {expected}; remove it and prepare again")
    rows = np.empty(len(columns["names"]), dtype=_ROW)
    rows["name"], rows["stamp"], rows["samples"] = columns["names"], columns["stamps"], columns["samples"]
    rows["start"], rows["frames"] = columns["offsets"][:-1], columns["offsets"].diff()
    rows["shard"], rows["row"] = number, np.arange(len(rows))
    return rows


class LengthOnlyCorpus(SpeechCorpus):
    """A corpus for recipes that need no sound beside the tokens: its waves have their length and are silent."""

    def __init__(self, corpus: SpeechCorpus, store: TokenStore) -> None:
        super().__init__(corpus.utterances, cache=False)
        self._store = store

    def wave(self, index: int) -> Tensor:
        """Return silence (S,) of the utterance's length, which takes no memory; audio is not read."""
        utterance = self.utterances[index]
        samples = self._store.samples(utterance, partial(self.samples, index))
        return torch.zeros(1).expand(samples)


def attach_tokens(item: SpeechItem, corpus: SpeechCorpus, stores: Mapping[str, TokenStore]) -> SpeechItem:
    """Return an item with the tokens of its wave; a UserError if its `pieces` or a store, by kind, lack them.

    Tokens are those of whole recordings as they are: a crop takes the frames of its place, and what a recipe does to
    the level of a wave is not done to its tokens. In both, training on audio differs a little at the edges.
    """
    if not item.pieces:
        raise UserError(
            f"utterance {item.id!r}: the recipe does not say of which `pieces` its wave is made, so that no stored "
            "tokens fit it; leave data.tokens out to train on audio"
        )
    tokens = {}
    for kind, store in stores.items():
        recorded = [store.read(corpus.utterances[p.index], partial(corpus.samples, p.index)) for p in item.pieces]
        parts = [_cut(values, piece) for values, piece in zip(recorded, item.pieces, strict=True)]
        # Stored in fewer bits than an embedding takes.
        tokens[kind] = torch.cat(parts).long()
    return replace(item, ssl_tokens=tokens.get(SSL), acoustic_tokens=tokens.get(ACOUSTIC))


def _cut(values: Tensor, piece: Segment) -> Tensor:
    """Return the frames of a piece (T, …) of a recording's, one for each of its hops."""
    start, count = round(piece.start / HOP), piece.samples // HOP
    frames = values[start : start + count]
    # The last hops have no SSL frame, as the window would reach past the end: they repeat the frame before.
    if not len(frames):
        frames = values[-1:] if len(values) else values.new_zeros((1, *values.shape[1:]))
    return torch.cat([frames, frames[-1:].expand(max(0, count - len(frames)), *frames.shape[1:])])[:count]
