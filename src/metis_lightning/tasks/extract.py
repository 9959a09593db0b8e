"""Extraction of a corpus's tokens into a store: a module for `Trainer.predict`, and the callback that writes.

Shape letters: B batch, S samples, T frames at 50 Hz, Q quantizers, C feature width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from metis_lightning.data.batches.extraction import MissingTokens, RecordingBatch
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.token_store.store import ACOUSTIC, SSL, ShardWriter, TokenStore
from metis_lightning.tokens.tokenizer import SpeechTokenizer, fingerprints
from metis_lightning.types import HOP

Predicted = Mapping[str, Sequence[Tensor]]
"""For each kind that was lacking the arrays (T, …) of a batch's recordings."""


@dataclass(frozen=True)
class Extraction:
    """What is extracted, and how.

    kinds: among `ssl`, `acoustic` and `features`.
    batch_seconds: audio in a batch, padding included.
    shard_size: recordings in a shard; a killed run loses less than that on each process.
    num_workers: processes that read audio, for each device.
    """

    kinds: tuple[str, ...]
    batch_seconds: float = 200.0
    shard_size: int = 2000
    num_workers: int = 0


class TokenExtractor(LightningModule):
    """Predicts the arrays of whole recordings that a store lacks.

    Each array is what its recording gives alone: rows are padded, and the padding reaches no frame.
    """

    def __init__(
        self, tokenizer: SpeechTokenizer, corpora: Iterable[SpeechCorpus], root: Path, extraction: Extraction
    ) -> None:
        super().__init__()
        self.tokenizer, self.corpora, self.root, self.extraction = tokenizer, tuple(corpora), root, extraction
        self.fingerprints: dict[str, str] = {}
        self.stores: dict[str, TokenStore] = {}
        # A few recordings on many devices: some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Look at what is stored."""
        device = self.trainer.strategy.root_device
        self.fingerprints = fingerprints(self.tokenizer, self.extraction.kinds, device)
        self.stores = {kind: TokenStore(self.root, kind, value) for kind, value in self.fingerprints.items()}

    def predict_dataloader(self) -> MissingTokens:
        """Return this process's share of the recordings that a store lacks."""
        options = self.extraction
        return MissingTokens(self.corpora, tuple(self.stores.values()), options.batch_seconds, options.num_workers)

    def predict_step(self, batch: RecordingBatch, batch_idx: int) -> Predicted:
        """Return the arrays that the store of any of the recordings lacks, on the CPU."""
        return {
            kind: self._arrays(kind, batch)
            for kind, store in self.stores.items()
            if any(store.find(key.name, key.stamp) is None for key in batch.keys)
        }

    def _arrays(self, kind: str, batch: RecordingBatch) -> list[Tensor]:
        counts = self.tokenizer.num_frames(batch.lengths)
        if kind == ACOUSTIC:
            # The codec fills up the last frame; the SSL front end leaves out what its window does not cover.
            values, counts = self.tokenizer.acoustic_tokens(batch.wave, batch.lengths), -(-batch.lengths // HOP)
        elif kind == SSL:
            values = self.tokenizer.ssl_tokens(batch.wave, batch.lengths)[0]
        else:
            values = self.tokenizer.ssl_features(batch.wave, batch.lengths)[0]
        # Features are stored in half precision, ids in as few bytes as hold the codebook's.
        codec = {SSL: self.tokenizer.semantic_codec, ACOUSTIC: self.tokenizer.acoustic_codec}.get(kind)
        dtype = torch.float16
        if kind in (SSL, ACOUSTIC):
            dtype = torch.int16 if codec is not None and codec.config.codebook_size <= 2**15 else torch.int32
        stored = values.to(dtype).cpu()
        return [row[:count].clone() for row, count in zip(stored, counts.tolist(), strict=True)]


class TokenWriter(Callback):
    """Writes what `TokenExtractor` predicts; on an interruption too, so that only a kill loses what was collected."""

    def __init__(self) -> None:
        self._writers: dict[str, ShardWriter] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a writer for each kind."""
        extractor = _extractor(pl_module)
        self._writers = {
            kind: ShardWriter(store.folder, kind, extractor.fingerprints[kind], extractor.extraction.shard_size)
            for kind, store in extractor.stores.items()
        }

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  Lightning's signature
        batch: RecordingBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the arrays of a batch."""
        stores = _extractor(pl_module).stores
        for kind, arrays in outputs.items():
            for key, values in zip(batch.keys, arrays, strict=True):
                if stores[kind].find(key.name, key.stamp) is None:
                    self._writers[kind].add(key, values)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last shards."""
        for writer in self._writers.values():
            writer.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is complete."""
        self.on_predict_end(trainer, pl_module)


def _extractor(module: LightningModule) -> TokenExtractor:
    if not isinstance(module, TokenExtractor):
        raise TypeError(f"TokenWriter writes what a TokenExtractor predicts, not a {type(module).__name__}")
    return module
