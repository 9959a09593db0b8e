"""Every kind of run goes on from a checkpoint as if it had not stopped: weights, optimizers, schedules and counts.

LoRA killed by a signal is in test_resume, the codec against discriminators in test_adversary, EMA in test_ema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.tasks.optimization import WarmupInverseSqrt
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from one_batch import OPTIMIZER, OneBatch, trainer
from tiny import ACOUSTIC, SEMANTIC, STAGE1, stage2_config

RATES = {"optimizer": OPTIMIZER, "lr_scheduler": partial(WarmupInverseSqrt, warmup_steps=3)}
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "code_counts", "seed")
MODULES: dict[str, Callable[[str], TrainableModule]] = {
    "pretrain": lambda bundle: PretrainModule(STAGE1, bundle, **RATES),
    "tse_full": lambda bundle: TseModule(base=bundle, lora_rank=0, gate_init=0.5, **RATES),
    "s2a": lambda bundle: SemanticToAcousticModule("s2a_full", stage2_config(3, 1), bundle, **RATES),
    "semantic_codec": lambda bundle: SemanticCodecModule(SEMANTIC, **RATES),
    "acoustic_codec": lambda bundle: AcousticCodecModule(ACOUSTIC, continuous_steps=1, **RATES),
}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors and plain values of a checkpoint, by name."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second


def run(module: TrainableModule, folder: Path, start: Path | None = None) -> dict[str, Any]:
    """Train to step 4, with a checkpoint at step 2 too; return what is compared of the last one."""
    saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit = trainer(folder, 4, limit_train_batches=10, limit_val_batches=0, enable_checkpointing=True, callbacks=[saves])
    fit.fit(module, datamodule=OneBatch(), ckpt_path=start, weights_only=True)
    checkpoint = torch.load(folder / "step=4.ckpt", weights_only=True)
    return dict(leaves({name: checkpoint.get(name) for name in COMPARED}))


@pytest.mark.parametrize("name", MODULES)
def test_a_resumed_run_ends_as_an_uninterrupted_one(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = run(MODULES[name](str(tiny_bundle)), tmp_path / "whole")
    # Another seed: weights and draws are the checkpoint's.
    torch.manual_seed(1)
    resumed = run(MODULES[name](str(tiny_bundle)), tmp_path / "resumed", tmp_path / "whole" / "step=2.ckpt")
    assert whole.keys() == resumed.keys()
    assert [key for key, value in whole.items() if not same(value, resumed[key])] == []
    assert any("exp_avg" in key for key in whole)
    if "codec" in name:
        assert whole[".code_counts"].sum() > 0
