"""All of stage 1 is trained on two processes from a base with phones, such as MaskGCT's, for tasks that take none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from every_module import OPTIONS
from metis_lightning.models.stage1 import PHONE_LAYERS, Stage1
from metis_lightning.pipeline import Metis
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import L2sModule, SeModule, TseModule, TtsModule, VcModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import plain_config
from metis_lightning.weights.bundle import Part, write_part
from one_batch import OneBatch, speech_batch, trainer
from tiny import STAGE1, make_tiny_bundle

PHONES = replace(STAGE1, use_phone_cond=True)
MODULES = {
    "tse": lambda base: TseModule(base, lora_rank=0, **OPTIONS),
    "se": lambda base: SeModule(base, lora_rank=0, **OPTIONS),
    "vc": lambda base: VcModule(base, lora_rank=0, **OPTIONS),
    "l2s": lambda base: L2sModule(lip_dim=6, base=base, **OPTIONS),
    "pretrain": lambda base: PretrainModule(PHONES, base, **OPTIONS),
    "tts": lambda base: TtsModule("utf8", base=base, lora_rank=0, **OPTIONS),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose base has a phone embedding and its MLP."""
    folder = make_tiny_bundle(tmp_path_factory.mktemp("with_phones"))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        write_part(folder, "stage1", Part(plain_config(PHONES), Stage1(PHONES).state_dict()))
    return folder


class WithEverything(OneBatch):
    """A batch with scripts and lip features too."""

    def train_dataloader(self) -> DataLoader:
        batch = speech_batch()
        lips = {"features": torch.randn(2, 25, 6), "feature_lengths": torch.tensor([25, 20])}
        whole: SpeechBatch = replace(batch, scripts=("yes", "no"), languages=("en", "en"), **lips)
        return DataLoader([whole] * 4, batch_size=None)


@pytest.mark.parametrize("task", MODULES)
def test_two_processes_train_what_the_task_reaches(task: str, base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module: TrainableModule = MODULES[task](str(base))
    before = {name: value.clone() for name, value in module.named_parameters()}
    run = trainer(tmp_path, 2, devices=2, strategy="ddp_fork", use_distributed_sampler=False, limit_val_batches=0)
    run.fit(module, datamodule=WithEverything())
    for name in before:
        if name.removeprefix("model.").startswith(PHONE_LAYERS):
            assert torch.equal(module.get_parameter(name), before[name]) == (task != "tts"), name
    assert not torch.equal(module.model.to_logit.weight, before["model.to_logit.weight"])


def test_what_was_trained_so_is_whole(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, run = MODULES["tse"](str(base)), trainer(tmp_path, 1)
    run.fit(module, datamodule=OneBatch())
    run.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Metis.from_pretrained(str(tmp_path / "a.ckpt"), base=str(base)).stage1["tse"].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in module.model.state_dict().items())
