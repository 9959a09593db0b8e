"""A run's folder: that of the run that was started last, whose path never changes.

What an earlier run left there is moved aside, to `version_0`, `version_1`, … in the same folder, unless the run goes on
from one of its checkpoints.

A run's config in its loggers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils.tensorboard.summary import hparams

from metis_lightning.callbacks.checkpoints import RunCheckpoint, shown
from metis_lightning.callbacks.gradients import REPORT
from metis_lightning.files import check_output

_LOGGED = ("events.out.tfevents*", "hparams.yaml", "config.yaml", "metrics.csv", REPORT)


def last_checkpoint(trainer: Trainer) -> Path | None:
    """Return the newest `last.ckpt` of a trainer's folders; None if there is none."""
    found = [path for folder in _checkpoint_folders(trainer) for path in folder.glob("last*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def resumes_in(trainer: Trainer, checkpoint: str | None) -> bool:
    """Return whether a run that starts from a checkpoint goes on in the folder that is there."""
    if checkpoint is None:
        # Lightning goes on by itself after a job of SLURM's was requeued.
        return SLURMEnvironment.detect() and trainer._checkpoint_connector._hpc_resume_path is not None
    return checkpoint == "hpc" or Path(checkpoint).resolve().parent in map(Path.resolve, _checkpoint_folders(trainer))


@rank_zero_only
def set_aside(trainer: Trainer) -> None:
    """Move what an earlier run left in a trainer's folders; call it before anything is written there."""
    moves = {path: folder for folder, path in _left(trainer)}
    if not moves:
        return
    homes = set(moves.values())
    version = next(f"version_{n}" for n in count() if not any((home / f"version_{n}").exists() for home in homes))
    for path, home in moves.items():
        target = home / version / path.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for home in sorted(homes):
        rank_zero_info(f"{shown(home)}: an earlier run's files are in {shown(home / version)} now")


def _left(trainer: Trainer) -> Iterator[tuple[Path, Path]]:
    """Yield the files that a run writes and that are there, each behind the folder that its version's goes into."""
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            folder = Path(logger.log_dir).resolve()
            yield from ((folder, path) for pattern in _LOGGED for path in folder.glob(pattern))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoint):
            folder, home = callback.folder(trainer).resolve(), callback.home(trainer)
            yield from ((home, path) for pattern in _names(callback) for path in folder.glob(pattern))
            yield from ((home, path) for path in home.glob(REPORT))


def _names(callback: RunCheckpoint) -> tuple[str, ...]:
    """Return patterns of the names that a callback gives to checkpoints."""
    template = callback.filename or "{epoch}-{step}"
    shown = r"\1=*" if callback.auto_insert_metric_name else "*"
    own = re.sub(r"\{([^:}]*)[^}]*\}", shown, template)
    return f"{own}{callback.FILE_EXTENSION}", f"{own}-v*{callback.FILE_EXTENSION}", "last.ckpt", "last-v*.ckpt"


def run_folders(trainer: Trainer) -> set[Path]:
    """Return the folders that a run's files go into."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
    return {callback.home(trainer) for callback in callbacks}


@rank_zero_only
def check_folders(trainer: Trainer) -> None:
    """Refuse folders of logs and checkpoints that cannot be written.

    Raises:
        UserError: naming what is in the way.
    """
    logs = {Path(logger.log_dir) for logger in trainer.loggers if logger.log_dir and "://" not in logger.log_dir}
    for folder in sorted(run_folders(trainer) | logs):
        check_output(folder, "the run's folder", is_folder=True)


def _checkpoint_folders(trainer: Trainer) -> list[Path]:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
    return [callback.folder(trainer) for callback in callbacks]


_TRAINER = ("max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "devices", "num_nodes")
"""What of the Trainer's settings decides a result."""


class LoggedConfig(SaveConfigCallback):
    """Saves the config of a run and shows it in its loggers: single settings as hyper-parameters, and all as text."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config of `fit`, on the first process."""
        if stage != "fit":
            return
        settings = hyper_parameters(self.config)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings)
                continue
            # Without metrics it only goes into hparams.yaml; with them Lightning would log values of theirs too.
            logger.log_hyperparams(settings, metrics={})
            for summary in hparams(settings, {"val/loss": 0.0}):
                logger.experiment._get_file_writer().add_summary(summary)
            text = self.parser.dump(self.config, skip_none=False)
            logger.experiment.add_text("config", f"```yaml\n{text}\n```")


def hyper_parameters(config: Namespace) -> dict[str, bool | int | float | str]:
    """Return the settings of a config that decide a result, flat.

    >>> optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "betas": [0.9, 0.98]}}
    >>> hyper_parameters(Namespace(model={"class_path": "a.B", "init_args": {"optimizer": optimizer}}))
    {'model': 'B', 'model.optimizer': 'AdamW', 'model.optimizer.lr': 0.001, 'model.optimizer.betas': '[0.9, 0.98]'}
    """
    whole = config.as_dict()
    trainer = {name: whole["trainer"][name] for name in _TRAINER if name in whole.get("trainer", ())}
    parts: dict[str, Any] = {name: whole[name] for name in ("seed_everything", "model", "data") if name in whole}
    return dict(_flat("", {**parts, "trainer": trainer}))


def _flat(name: str, value: object) -> Iterator[tuple[str, bool | int | float | str]]:
    """Yield the settings within a value by dotted names; a class is its name, and its arguments are named below it."""
    if isinstance(value, Mapping):
        content: Mapping[str, Any] = value
        if "class_path" in value:
            yield name, str(value["class_path"]).rpartition(".")[2]
            content = value.get("init_args") or dict[str, Any]()
        for key, part in content.items():
            yield from _flat(f"{name}.{key}" if name else key, part)
    else:
        yield name, value if isinstance(value, bool | int | float | str) else str(value)
