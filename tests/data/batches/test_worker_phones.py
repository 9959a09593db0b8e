"""The phones of a batch are made where the batch is, and are those that a step would make."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import OmniRecipe, PlainRecipe, TtsRecipe, WeightedRecipe
from metis_lightning.tasks.conditioned import OmniModule, TtsModule
from metis_lightning.types import SpeechBatch
from one_batch import trainer


class Phones(Callback):
    """Notes the phones of each batch, and those that the module makes of it without them."""

    def __init__(self) -> None:
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        self.found.append((batch.phones, pl_module.phones(replace(batch, phones=None))))


def fit(module: LightningModule, folder: Path, recipe: object, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    seen = Phones()
    trainer(
        folder,
        2,
        use_distributed_sampler=False,
        callbacks=[seen],
        limit_train_batches=None,
        limit_val_batches=0,
    ).fit(module, datamodule=StarterDataModule(recipe=recipe, batch_seconds=8.0, max_seconds=2.0, num_workers=workers))
    return seen.found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_brings_the_phones_of_its_scripts(workers: int, tiny_bundle: Path, tmp_path: Path) -> None:
    some = [WeightedRecipe(weight=0.5, recipe=recipe) for recipe in (TtsRecipe(), PlainRecipe())]
    module = OmniModule("utf8", base=str(tiny_bundle))
    for made, expected in fit(module, tmp_path, OmniRecipe(some), workers):
        assert made.shape[1] > 1 and torch.equal(made, expected)


def test_workers_leave_no_copies_of_the_reader_behind(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("espeakng_loader", reason="eSpeak is the extra `text`")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module = TtsModule("espeak", base=str(tiny_bundle))
    copies = set[Path]()

    def phones(*_: object) -> None:
        copies.update(tmp_path.rglob("libespeak*"))

    monkeypatch.setattr(Phones, "on_train_batch_start", phones)
    fit(module, tmp_path, TtsRecipe(), workers=1)
    # This process has read nothing; the worker's copy is gone with it.
    assert len(copies) >= 1
    assert not list(tmp_path.rglob("libespeak*"))
