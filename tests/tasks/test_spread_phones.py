"""Phones that are spread over the frames, from training to a bundle that reads them so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from every_module import OPTIONS
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis
from metis_lightning.tasks.conditioned import TseModule, TtsModule
from metis_lightning.weights.export import export
from one_batch import OneBatch, speech_batch, trainer


class Spoken(OneBatch):
    """A batch with scripts."""

    def train_dataloader(self) -> DataLoader:
        batch = replace(speech_batch(), scripts=("yes", "no"), languages=("en", "en"), source=None)
        return DataLoader([batch] * 4, batch_size=None)


def module(base: Path, spread_phones: bool, lora_rank: int = 2) -> TtsModule:
    torch.manual_seed(0)
    return TtsModule("utf8", base=str(base), spread_phones=spread_phones, lora_rank=lora_rank, **OPTIONS)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_bundle_reads_phones_as_its_training_did(lora_rank: int, tiny_bundle: Path, tmp_path: Path) -> None:
    spread = module(tiny_bundle, spread_phones=True, lora_rank=lora_rank)
    before = spread.model.phone_emb.weight.detach().clone()
    run = trainer(tmp_path, 2, limit_val_batches=0)
    run.fit(spread, datamodule=Spoken())
    # Of the scripts' letters alone.
    moved = (spread.model.phone_emb.weight != before).any(dim=1).nonzero()[:, 0].tolist()
    assert moved and set(moved) <= set(spread.text(("yes", "en"))) | set(spread.text(("no", "en")))
    run.save_checkpoint(tmp_path / "spread.ckpt")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    export(tmp_path / "spread.ckpt", bundle)
    for name, base in ((tmp_path / "spread.ckpt", tiny_bundle), (bundle, bundle)):
        assert Metis.from_pretrained(str(name), "tts", base=str(base)).stage1["tts"].config.spread_phones
    with pytest.raises(UserError, match="has spread_phones True, this module None"):
        trainer(tmp_path, 4, limit_val_batches=0).fit(
            module(tiny_bundle, spread_phones=False, lora_rank=lora_rank),
            datamodule=Spoken(),
            ckpt_path=tmp_path / "spread.ckpt",
            weights_only=True,
        )


def test_without_text_there_is_nothing_to_spread(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="reads no text"):
        TseModule(str(tiny_bundle), spread_phones=True, **OPTIONS)
