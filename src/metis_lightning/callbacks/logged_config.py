"""A run's config in its loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

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
