"""`prepare tokens`: the tokens that a config trains on, made once by `Trainer.predict` on any devices and nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.token_store.store import KINDS, TokenStore
from metis_lightning.errors import UserError
from metis_lightning.files import check_output, locked
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.extract import Extraction, TokenExtractor, TokenWriter
from metis_lightning.tokens.tokenizer import SpeechTokenizer, fingerprints
from metis_lightning.trainer.main import build_from_config
from metis_lightning.trainer.options import PrepareTokensOptions

# What of a config's trainer says where a run runs; the rest is about training.
_WHERE = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar")


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
    extraction = Extraction(
        kinds, options.batch_seconds or datamodule.batch_seconds, options.shard_size, datamodule.num_workers
    )
    corpora = tuple(datamodule.corpora().values())
    # The config's Trainer is one for training: its loggers, callbacks and limits are not wanted here.
    where: dict[str, Any] = {name: cli.config["trainer"][name] for name in _WHERE}
    trainer = lightning.Trainer(
        **where, callbacks=[TokenWriter()], logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    # One of the processes that share the work holds the lock for all.
    with locked(options.out) if trainer.is_global_zero else nullcontext():
        extract(trainer, tokenizer, corpora, options.out, extraction)
        if trainer.is_global_zero:
            made = fingerprints(tokenizer, kinds, trainer.strategy.root_device)
            print(*_report(made, corpora, options.out), sep="\n")


def extract(
    trainer: lightning.Trainer,
    tokenizer: SpeechTokenizer,
    corpora: Sequence[SpeechCorpus],
    root: Path,
    extraction: Extraction,
) -> None:
    """Store what a store lacks of the corpora, by a trainer that has the callback `TokenWriter`."""
    trainer.predict(TokenExtractor(tokenizer, corpora, root, extraction), return_predictions=False)


def _report(made: Mapping[str, str], corpora: Sequence[SpeechCorpus], root: Path) -> list[str]:
    seconds = sum(float(corpus.utterances.seconds.sum()) for corpus in corpora)
    count = sum(map(len, corpora))
    stores = [TokenStore(root, kind, value) for kind, value in made.items()]
    return [f"{count:,} utterances, {seconds / 3600:.2f} h"] + [
        f"{store.folder}: {len(store):,} arrays in {len(store.shards)} shards" for store in stores
    ]
