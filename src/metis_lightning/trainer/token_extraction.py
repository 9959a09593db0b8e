"""`prepare tokens`: the tokens, T frames at 50 Hz, that a config trains on, made once by `Trainer.predict`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from metis_lightning.data.batches.extraction import MissingTokens, RecordingBatch
from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.token_store.store import ACOUSTIC, KINDS, SSL, ShardWriter, TokenStore
from metis_lightning.errors import UserError
from metis_lightning.files import check_output, locked
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tokens.tokenizer import SpeechTokenizer, fingerprints
from metis_lightning.trainer.main import build_from_config
from metis_lightning.trainer.options import PrepareTokensOptions
from metis_lightning.types import HOP

# What of a config's trainer says where a run runs; the rest is about training.
_WHERE = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar")


@dataclass(frozen=True)
class Extraction:
    """What is extracted, among `ssl`, `acoustic` and `features`, and how.

    batch_seconds, num_workers: audio in a batch, padding included, and processes that read it, for each device.
    shard_size: recordings in a shard; a killed run loses less than that on each process.
    """

    kinds: tuple[str, ...]
    batch_seconds: float = 200.0
    shard_size: int = 2000
    num_workers: int = 0


class TokenExtractor(LightningModule):
    """Predicts the arrays of whole recordings that a store lacks, as each gives alone: padding reaches no frame."""

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
        self.fingerprints = fingerprints(self.tokenizer, self.extraction.kinds, self.trainer.strategy.root_device)
        self.stores = {kind: TokenStore(self.root, kind, value) for kind, value in self.fingerprints.items()}

    def predict_dataloader(self) -> MissingTokens:
        """Return this process's share of the recordings that a store lacks."""
        options = self.extraction
        return MissingTokens(self.corpora, tuple(self.stores.values()), options.batch_seconds, options.num_workers)

    def predict_step(self, batch: RecordingBatch, batch_idx: int) -> dict[str, list[Tensor]]:
        """Return by kind the arrays (T, …) of recordings of which any is lacking in the store, on the CPU."""
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
        ids = torch.int16 if codec is not None and codec.config.codebook_size <= 2**15 else torch.int32
        stored = values.to(ids if kind in (SSL, ACOUSTIC) else torch.float16).cpu()
        return [row[:count].clone() for row, count in zip(stored, counts.tolist(), strict=True)]


class TokenWriter(Callback):
    """Writes what `TokenExtractor` predicts; on an interruption too, so that only a kill loses what was collected."""

    def __init__(self) -> None:
        self._writers: dict[str, ShardWriter] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a writer for each kind."""
        assert isinstance(pl_module, TokenExtractor)
        self._writers = {
            kind: ShardWriter(store.folder, kind, pl_module.fingerprints[kind], pl_module.extraction.shard_size)
            for kind, store in pl_module.stores.items()
        }

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: RecordingBatch, *_: object
    ) -> None:
        """Collect the arrays of a batch."""
        assert isinstance(pl_module, TokenExtractor) and isinstance(outputs, dict)
        for kind, arrays in outputs.items():
            for key, values in zip(batch.keys, arrays, strict=True):
                if pl_module.stores[kind].find(key.name, key.stamp) is None:
                    self._writers[kind].add(key, values)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last shards."""
        for writer in self._writers.values():
            writer.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is complete."""
        self.on_predict_end(trainer, pl_module)


def run_prepare_tokens(options: PrepareTokensOptions, config: Sequence[str]) -> None:
    """Run `prepare tokens`. A `UserError` if the config names no corpus or no tokenizer, or a kind is none."""
    check_output(options.out, is_folder=True)
    cli = build_from_config(config)
    datamodule = cli.datamodule
    if not isinstance(cli.model, TrainableModule) or not isinstance(datamodule, SpeechDataModule):
        raise UserError("prepare tokens: give a config of a module and a corpus of this package with -c")
    tokenizer = getattr(cli.model, "tokenizer", None)
    kinds = tuple(options.kinds or cli.model.token_kinds)
    if tokenizer is None or not kinds:
        raise UserError(f"prepare tokens: {type(cli.model).__name__} trains on audio and makes no use of tokens")
    if unknown := set(kinds) - set(KINDS):
        raise UserError(f"--kinds: unknown {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    batch_seconds = options.batch_seconds or datamodule.batch_seconds
    extraction = Extraction(kinds, batch_seconds, options.shard_size, datamodule.num_workers)
    corpora = tuple(datamodule.corpora().values())
    # The config's Trainer is one for training: its loggers, callbacks and limits are not wanted here.
    where: dict[str, Any] = {name: cli.config["trainer"][name] for name in _WHERE}
    trainer = Trainer(
        **where, callbacks=[TokenWriter()], logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    # One of the processes that share the work holds the lock for all.
    with locked(options.out) if trainer.is_global_zero else nullcontext():
        extract(trainer, tokenizer, corpora, options.out, extraction)
        if trainer.is_global_zero:
            seconds = sum(float(corpus.utterances.seconds.sum()) for corpus in corpora)
            print(f"{sum(map(len, corpora)):,} utterances, {seconds / 3600:.2f} h")
            for kind, value in fingerprints(tokenizer, kinds, trainer.strategy.root_device).items():
                store = TokenStore(options.out, kind, value)
                print(f"{store.folder}: {len(store):,} arrays in {len(store.shards)} shards")


def extract(
    trainer: Trainer, tokenizer: SpeechTokenizer, corpora: Sequence[SpeechCorpus], root: Path, extraction: Extraction
) -> None:
    """Store what a store lacks of the corpora, by a trainer with a `TokenWriter`; several processes share the work."""
    trainer.predict(TokenExtractor(tokenizer, corpora, root, extraction), return_predictions=False)
