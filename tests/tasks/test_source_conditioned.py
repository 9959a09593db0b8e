"""TSE, SE and VC: each learns one batch by heart, trains on the starter corpus, and speaks from its checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from metis_lightning import task_table
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import Recipe
from metis_lightning.data.recipes.se import SeRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.data.recipes.vc import VcRecipe
from metis_lightning.errors import UserError
from metis_lightning.models.lora import merge_lora
from metis_lightning.pipeline import Metis, Settings
from metis_lightning.sampling.settings import Sampling
from metis_lightning.tasks.conditioned import SeModule, SourceConditionedModule, TseModule, VcModule
from metis_lightning.tasks.optimization import WarmupCosine
from metis_lightning.types import SpeechBatch
from one_batch import OPTIMIZER, SCHEDULE, changing_batch, mean_accuracy, normalise, trainer
from tiny import wide_start

TASKS = pytest.mark.parametrize(
    ("cls", "recipe"), [(TseModule, TseRecipe), (SeModule, SeRecipe), (VcModule, VcRecipe)], ids=["tse", "se", "vc"]
)
FAST = Settings(stage1=Sampling(num_steps=2), stage2_steps=(2, 1, 1))


def make(cls: type[SourceConditionedModule], bundle: Path, rank: int, **options: object) -> SourceConditionedModule:
    torch.manual_seed(0)
    return cls(str(bundle), lora_rank=rank, **{"optimizer": OPTIMIZER, "lr_scheduler": SCHEDULE} | options)


@pytest.mark.parametrize(("cls", "rank"), [(TseModule, 16), (SeModule, 0), (VcModule, 16)], ids=["tse", "se", "vc"])
def test_a_module_learns_one_batch_by_heart(
    cls: type[SourceConditionedModule], rank: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Masked-token accuracy above 0.95, over masks drawn anew."""
    steps, batch = 300, changing_batch()
    schedule = partial(WarmupCosine, total_steps=steps, warmup_steps=10)
    optimizer = partial(torch.optim.AdamW, lr=5e-3)
    with wide_start():
        module = make(cls, tiny_bundle, rank, gate_init=1.0, optimizer=optimizer, lr_scheduler=schedule)
    normalise(module.tokenizer.features, module.tokenizer.resample(batch.wave))
    tokens, frames = module.tokenizer.ssl_tokens(batch.wave, batch.lengths)
    assert all(len(set(row[:count].tolist())) >= 8 for row, count in zip(tokens, frames, strict=True))
    trainer(tmp_path, steps).fit(module, DataLoader([batch] * steps, batch_size=None))
    assert mean_accuracy(module, batch) > 0.95


@TASKS
@pytest.mark.parametrize("rank", [2, 0], ids=["lora", "full"])
def test_a_run_on_the_starter_corpus_speaks_from_its_checkpoint(
    cls: type[SourceConditionedModule], recipe: type[Recipe], rank: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    module, task = make(cls, tiny_bundle, rank), cls.task
    run = trainer(tmp_path, 2, limit_val_batches=1, use_distributed_sampler=False)
    run.fit(module, datamodule=StarterDataModule(recipe(), batch_seconds=6.0, max_seconds=3.5))
    run.save_checkpoint(tmp_path / "last.ckpt")
    metis = Metis.from_pretrained(str(tmp_path / "last.ckpt"), task=task, base=str(tiny_bundle))
    merge_lora(module.model)
    loaded, trained = metis.stage1[task].state_dict(), module.model.state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())
    source, prompt = 0.1 * torch.randn(2, 24_001, generator=torch.Generator().manual_seed(0))
    says = {"tse": metis.extract, "se": lambda wave, _, settings: metis.enhance(wave, settings=settings)}
    speech = says.get(task, metis.convert)(source, prompt, settings=FAST)
    assert speech.wave.shape == source.shape
    assert torch.isfinite(speech.wave).all()


def test_a_batch_without_sources_is_the_users_mistake(tiny_bundle: Path) -> None:
    batch = changing_batch()
    plain = SpeechBatch(batch.ids, batch.speakers, batch.texts, batch.wave, batch.lengths)
    with pytest.raises(UserError, match=r"SeModule needs sources: .* metis_lightning\.data\.recipes\.se\.SeRecipe"):
        make(SeModule, tiny_bundle, 2).losses(plain)


def test_every_task_with_a_source_is_in_the_table() -> None:
    assert {task_table.TASKS[cls.task].condition for cls in (TseModule, SeModule, VcModule)} == {"source"}
