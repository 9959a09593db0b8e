"""A training step waits for the device once: for how many tokens are masked. A fused update waits for nothing.

No micro-batch has a barrier.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer

from metis_lightning.callbacks.gradients import FiniteGuard, GradientNorm, gradient_norm
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule, TokenCache
from one_batch import OPTIMIZER, SCHEDULE, OneBatch, make_tse, speech_batch, trainer
from sections.host_waits import HostWaits
from tiny import STAGE1, stage2_config

RESAMPLED = {"_local_scalar_dense": 1}
"""torchaudio's resampler asks a tensor on the CPU for the length of its result, whatever the device of the wave."""


def waits_of_a_step(module: TrainableModule) -> Mapping[str, int]:
    """What a forward and a backward pass of the second step waits for."""
    module.train()
    module.losses(speech_batch())["loss"].backward()
    with HostWaits() as waits:
        module.losses(speech_batch())["loss"].backward()
    return waits.counts


def test_fine_tuning_waits_once(tiny_bundle: Path) -> None:
    assert waits_of_a_step(make_tse(tiny_bundle)) == {"nonzero": 1, "_local_scalar_dense": 2}


def test_pre_training_waits_once(tiny_bundle: Path) -> None:
    module = PretrainModule(STAGE1, str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    assert waits_of_a_step(module) == {"nonzero": 1, **RESAMPLED}
    # Two steps counted the tokens of both rows, without their padding.
    frames = int(module.tokenizer.num_frames(speech_batch().lengths).sum())
    assert int(module.unigram.counts.sum()) == len(module.unigram.counts) + 2 * frames


def test_stage_2_waits_once_for_its_masks(tiny_bundle: Path) -> None:
    module = SemanticToAcousticModule("s2a_full", stage2_config(3, 1), str(tiny_bundle), cache_tokens=False)
    # The layer is drawn on the CPU, as the number that it is.
    assert waits_of_a_step(module) == {"nonzero": 1, "_local_scalar_dense": 2}


def test_kept_tokens_are_looked_up_in_one_wait_for_all_rows(tiny_bundle: Path) -> None:
    cache = TokenCache(make_tse(tiny_bundle).tokenizer)
    first = cache.tokens(speech_batch())
    lists: list[int] = []

    class Lists(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.tolist:
                lists.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    with HostWaits() as waits, Lists():
        again = cache.tokens(speech_batch())
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert (lists, waits.counts.total()) == ([4], 0)


class UpdateWaits(Callback):
    """Counts what an update waits for, from its gradients on, and takes their norm as the optimizer saw it."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits = HostWaits()
        self.waits.__enter__()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.waits.__exit__(None, None, None)
        self.norm = float(gradient_norm(trainer.optimizers[0]))


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_update_is_clipped_guarded_and_logged_without_a_wait(
    fused: bool, tiny_bundle: Path, tmp_path: Path
) -> None:
    module, seen = make_tse(tiny_bundle), UpdateWaits()
    module._optimizer = partial(torch.optim.AdamW, lr=1e-2, fused=fused)
    guard = FiniteGuard()
    trainer(
        tmp_path,
        3,
        # Lightning itself would refuse to clip a fused optimizer's gradients.
        precision="bf16-mixed",
        gradient_clip_val=1e-4,
        callbacks=[guard, GradientNorm(), seen],
        limit_train_batches=None,
        limit_val_batches=0,
    ).fit(module, datamodule=OneBatch())
    assert seen.norm == pytest.approx(1e-4, rel=0.02)
    assert (seen.waits.counts.total() == 0) == fused
    assert guard.skipped == 0


class NoBarrier(Callback):
    """Refuses barriers from a batch's start to its end."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.barrier = torch.distributed.barrier

        def refused(*_: object, **__: object) -> None:
            raise AssertionError("a barrier in a micro-batch")

        torch.distributed.barrier = refused

    def on_train_batch_end(self, *_: object) -> None:
        torch.distributed.barrier = self.barrier


@pytest.mark.parametrize("accumulated", [1, 2])
def test_no_micro_batch_has_a_barrier(tiny_bundle: Path, tmp_path: Path, accumulated: int) -> None:
    trainer(
        tmp_path,
        2,
        devices=2,
        strategy="ddp_fork",
        accumulate_grad_batches=accumulated,
        use_distributed_sampler=False,
        callbacks=[NoBarrier()],
        limit_train_batches=None,
        limit_val_batches=0,
    ).fit(make_tse(tiny_bundle), datamodule=OneBatch())
