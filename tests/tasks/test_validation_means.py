"""Validation means weigh what they are means over, and modules fit devices without float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from every_module import MODULES
from one_batch import OneBatch, speech_batch, trainer


@pytest.mark.parametrize("name", MODULES)
def test_a_device_without_float64_takes_every_module(name: str, tiny_bundle: Path) -> None:
    """As `.to("mps")` does, metric states among the rest."""
    module = MODULES[name](str(tiny_bundle))

    def moved(value: Tensor) -> Tensor:
        if value.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return value.clone()

    module._apply(moved)
    trainer_free = [state for part in module.modules() for state in vars(part).get("_defaults", {}).values()]
    assert all(state.dtype != torch.float64 for state in trainer_free if isinstance(state, Tensor))


class UnevenBatches(OneBatch):
    """In validation a batch of one short row, and one of two long rows."""

    def val_dataloader(self) -> DataLoader:
        long = speech_batch()
        short = replace(
            long,
            ids=("c",),
            speakers=("x",),
            texts=("",),
            wave=long.wave[:1, :4_800],
            source=long.source[:1, :4_800],
            lengths=torch.tensor([4_800]),
            prompt_lengths=torch.tensor([0]),
        )
        return DataLoader([short, long], batch_size=None)


@pytest.mark.parametrize("name", ["tse_lora", "pretrain", "s2a"])
def test_a_validation_is_the_mean_over_its_masked_tokens(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = MODULES[name](str(tiny_bundle))
    run = trainer(tmp_path, 1)
    run.validate(module, datamodule=UnevenBatches(), verbose=False)
    right, counts = module.by_mask_ratio.counts.sum(dim=1)
    assert float(run.callback_metrics["val/loss"]) == pytest.approx(
        float(module.by_mask_ratio.losses.sum() / counts), rel=1e-6
    )
    assert float(run.callback_metrics["val/acc"]) == pytest.approx(float(right / counts), rel=1e-6)
    assert "val/masked_tokens" not in run.callback_metrics


def test_a_semantic_codecs_validation_is_the_mean_over_its_frames(tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data, run = MODULES["semantic_codec"](str(tiny_bundle)), UnevenBatches(), trainer(tmp_path, 1)
    run.validate(module, datamodule=data, verbose=False)
    total, frames = 0.0, 0
    for batch in data.val_dataloader():
        for row, length in enumerate(batch.lengths):
            alone = replace(batch, ids=("a",), wave=batch.wave[row : row + 1], lengths=length[None])
            count = module.averaged_over({}, alone)
            with torch.no_grad():
                total += float(module.losses(alone)["reconstruction"]) * count
            frames += count
    # But for the convolutions' view of the padding after a row's end.
    assert float(run.callback_metrics["val/reconstruction"]) == pytest.approx(total / frames, rel=2e-3)
