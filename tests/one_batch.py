"""One batch of tones, and one of changing noise, on which small modules are trained in tests."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.tokens.ssl_features import SSLFeatures
from metis_lightning.types import SpeechBatch

OPTIMIZER = partial(torch.optim.AdamW, lr=1e-2)
SCHEDULE = partial(ConstantLR, factor=1.0)


def speech_batch() -> SpeechBatch:
    """Two rows of tones that change, with a prompt and a source."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(24_000) / 24_000
    pitches = torch.tensor([[180.0], [240.0]])
    wave = 0.3 * torch.sin(2 * torch.pi * pitches * time * (1 + time)) + 0.01 * torch.randn(
        2, 24_000, generator=generator
    )
    return SpeechBatch(
        ids=("a", "b"),
        speakers=("x", "y"),
        texts=("", ""),
        wave=wave,
        lengths=torch.tensor([24_000, 19_200]),
        source=wave + wave.flip(0),
        prompt_lengths=torch.tensor([4_800, 9_600]),
    )


def rows(batch: SpeechBatch, chosen: slice) -> SpeechBatch:
    """Some rows of a batch, padded as they were."""
    tensors = {name: value[chosen] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    texts = {name: getattr(batch, name)[chosen] for name in ("ids", "speakers", "texts")}
    return replace(batch, **tensors, **texts)


def four_rows() -> SpeechBatch:
    """Rows whose prompts and lengths leave different numbers of tokens to be masked."""
    two = speech_batch()
    parts = {name: torch.cat([value, value]) for name, value in vars(two).items() if isinstance(value, Tensor)}
    parts |= {"lengths": torch.tensor([24_000, 19_200, 12_000, 24_000])}
    parts |= {"prompt_lengths": torch.tensor([4_800, 9_600, 1_920, 19_200])}
    return replace(two, ids=tuple("abcd"), speakers=tuple("xyxy"), texts=("",) * 4, **parts)


def changing_batch() -> SpeechBatch:
    """Two rows of noise whose bands change every 83 ms; the source is both, one of them faint."""
    generator = torch.Generator().manual_seed(0)
    spectra = torch.fft.rfft(torch.randn(2, 12, 2000, generator=generator))
    bands = (torch.rand(2, 12, 7, generator=generator) < 0.5).float().repeat_interleave(143, dim=-1)
    wave = 0.2 * torch.fft.irfft(spectra * bands, n=2000).flatten(1)
    return SpeechBatch(
        ids=("a", "b"),
        speakers=("x", "y"),
        texts=("", ""),
        wave=wave,
        lengths=torch.tensor([24_000, 19_200]),
        source=wave + 0.3 * wave.flip(0),
        prompt_lengths=torch.tensor([4_800, 0]),
    )


def normalise(features: SSLFeatures, wave: Tensor) -> None:
    """Centre the features on those of a wave at their rate; a random codec gives nearly all others the same token."""
    raw = features.unnormalised(wave).flatten(0, 1)
    features.mean, features.std = raw.mean(dim=0), raw.std(dim=0)


class OneBatch(lightning.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader([speech_batch()] * 400, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([speech_batch()], batch_size=None)


def trainer(folder: Path, steps: int, **options: Any) -> lightning.Trainer:
    settings = {
        "max_steps": steps,
        "limit_train_batches": steps,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**settings | options)


def fit(module: TrainableModule, folder: Path, steps: int, ckpt_path: Path | None = None) -> lightning.Trainer:
    run = trainer(folder, steps)
    run.fit(module, datamodule=OneBatch(), ckpt_path=ckpt_path, weights_only=True)
    return run


@torch.no_grad()
def mean_accuracy(module: TrainableModule, batch: SpeechBatch) -> float:
    """Masked-token accuracy on a batch, over eight draws of the masks."""
    module.eval()
    draws = [module.losses(batch, torch.Generator().manual_seed(seed)) for seed in range(8)]
    return sum(float(scores["acc"]) for scores in draws) / len(draws)


def make_tse(bundle: Path, rank: int = 2) -> TseModule:
    torch.manual_seed(0)
    return TseModule(str(bundle), lora_rank=rank, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
