"""A run of a tiny module through the command line, in processes of its own that have the large imports already."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from command import PRELOADED

SETTINGS = {
    "model": {
        "class_path": "metis_lightning.tasks.pretrain.PretrainModule",
        "init_args": {
            "stage1": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "codebook_size": 32},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-3}},
            "lr_scheduler": {
                "class_path": "metis_lightning.tasks.optimization.WarmupInverseSqrt",
                "init_args": {"warmup_steps": 10},
            },
        },
    },
    "data": {
        "class_path": "metis_lightning.data.corpora.starter.StarterDataModule",
        "init_args": {
            "batch_seconds": 6,
            "recipe": {
                "class_path": "metis_lightning.data.recipes.recipe.PlainRecipe",
                "init_args": {"max_seconds": 2.0},
            },
        },
    },
    "trainer": {
        "max_steps": 7,
        "accelerator": "cpu",
        "devices": 1,
        "use_distributed_sampler": False,
        "limit_train_batches": 8,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "tiny", "version": ""},
        },
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": "runs/tiny/checkpoints", "save_last": True, "every_n_train_steps": 3},
            }
        ],
    },
}

DIVERGE = (
    "--model.optimizer.init_args.lr=1e6",
    "--model.lr_scheduler.init_args.warmup_steps=1",
    "--trainer.max_steps=40",
)


class Run:
    """`fit` in a folder.

    Attributes:
        said: what the last command printed.
    """

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.said = folder, ""
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
        self.options = ["-c", "tiny.yaml", f"--model.tokenizer={bundle}"]

    def start(
        self, *options: str, verb: str = "fit", environment: Mapping[str, str] | None = None
    ) -> multiprocessing.process.BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_main, args=([verb, *self.options, *options], self.folder, environment or {}))
        process.start()
        return process

    def end(self, process: multiprocessing.process.BaseProcess) -> int:
        process.join()
        self.said = (self.folder / "said.txt").read_text()
        assert "Traceback" not in self.said, self.said
        return int(process.exitcode or 0)

    def __call__(self, *options: str, verb: str = "fit") -> int:
        return self.end(self.start(*options, verb=verb))

    @property
    def last_line(self) -> str:
        return self.said.strip().splitlines()[-1]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "runs/tiny/checkpoints"

    def content(self, name: str = "last") -> dict:
        return torch.load(self.checkpoints / f"{name}.ckpt", weights_only=True)

    def files(self) -> list[str]:
        """What lies below `runs`, event files by their kind alone."""
        found = (path for path in (self.folder / "runs").rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder / "runs")).partition(".out.")[0] for path in found)


def _main(words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    from metis_lightning.cli.main import main

    os.environ.update(environment)
    os.chdir(folder)
    with Path("said.txt").open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["metis_lightning", *words]
    sys.exit(main(words))


def tensors(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights and the optimizer's state of a checkpoint."""
    state = dict(checkpoint["state_dict"])
    for index, slots in checkpoint["optimizer_states"][0]["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    return state


def same_state(one: dict, other: dict) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
