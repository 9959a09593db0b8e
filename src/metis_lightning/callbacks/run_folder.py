"""A run's folder, whose path never changes, and the run's config in its loggers.

What an earlier run left there is moved into `version_0`, `version_1`, … in it, unless the run goes on from there.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils.tensorboard.summary import hparams

from metis_lightning.callbacks.checkpoints import run_checkpoints, shown
from metis_lightning.callbacks.gradients import REPORT
from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.files import atomic_path, check_output, printable
from metis_lightning.metrics.model_files import versions
from metis_lightning.options import PROGRAM

# What of the Trainer's settings decides a result.
_TRAINER = ("max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "devices", "num_nodes")
# One line for each start of a run: its command, versions, commit and data.
PROVENANCE = "provenance.jsonl"
_PACKAGES = ("metis-lightning", "torch", "lightning", "torchaudio", "transformers", "peft", "numpy")
_LOGGED = ("events.out.tfevents*", "hparams.yaml", "config.yaml", "metrics.csv", REPORT, PROVENANCE)


def resumes_in(trainer: Trainer, checkpoint: str | None) -> bool:
    """Return whether a run that starts from a checkpoint goes on in the folder that is there."""
    if checkpoint is None:
        # Lightning goes on by itself after a job of SLURM's was requeued.
        return SLURMEnvironment.detect() and trainer._checkpoint_connector._hpc_resume_path is not None
    folders = [callback.folder(trainer).resolve() for callback in run_checkpoints(trainer)]
    return checkpoint == "hpc" or Path(checkpoint).resolve().parent in folders


@rank_zero_only
def set_aside(trainer: Trainer) -> None:
    """Move what an earlier run left in a trainer's folders; call it before anything is written there."""
    # By the folder that the files' version goes into.
    moves: dict[Path, Path] = {}
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            folder = Path(logger.log_dir).resolve()
            moves |= {path: folder for pattern in _LOGGED for path in folder.glob(pattern)}
    for callback in run_checkpoints(trainer):
        folder, home = callback.folder(trainer).resolve(), callback.home(trainer)
        # "{step:06d}" stands for "step=*", or for "*" alone.
        field = r"\1=*" if callback.auto_insert_metric_name else "*"
        own = re.sub(r"\{([^:}]*)[^}]*\}", field, callback.filename or "{epoch}-{step}")
        names = (f"{own}{callback.FILE_EXTENSION}", f"{own}-v*{callback.FILE_EXTENSION}", "last.ckpt", "last-v*.ckpt")
        moves |= {path: home for pattern in names for path in folder.glob(pattern)}
        moves |= {path: home for path in home.glob(REPORT)}
    if not moves:
        return
    homes = set(moves.values())
    # One number for logs and checkpoints, though they may lie in different folders.
    aside = next(f"version_{n}" for n in count() if not any((home / f"version_{n}").exists() for home in homes))
    for path, home in moves.items():
        target = home / aside / path.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for home in sorted(homes):
        rank_zero_info(
            f"{shown(home)}: an earlier run's files are in {shown(home / aside)} now; --resume auto goes on with a run"
        )


@rank_zero_only
def check_folders(trainer: Trainer) -> None:
    """Refuse folders of logs and checkpoints that cannot be written; a `UserError` names what is in the way."""
    logs = {Path(logger.log_dir) for logger in trainer.loggers if logger.log_dir and "://" not in logger.log_dir}
    for folder in sorted(logs | {callback.home(trainer) for callback in run_checkpoints(trainer)}):
        check_output(folder, "the run's folder", is_folder=True)


# What is compared stands in one diagram of TensorBoard's custom scalars; tags are patterns.
LAYOUT = {
    kind: {
        "training and validation": ["Multiline", [f"train/{kind}$", f"val/{kind}$"]],
        "with and without the condition": ["Multiline", [f"val/{kind}$", f"val/base_{kind}$"]],
        "by mask ratio": ["Multiline", [f"val/{kind}_mask_.*"]],
    }
    for kind in ("loss", "acc")
} | {
    "speed": {name: ["Multiline", [f"throughput/{name}$"]] for name in ("tokens_per_second", "data_wait", "memory_gb")}
}


class LoggedConfig(SaveConfigCallback):
    """Saves the config of a run and shows it in its loggers: single settings as hyper-parameters, and all as text.

    The file repeats the run, `fit -c RUN/config.yaml`; what it was made by and of is in `provenance.jsonl` beside it.
    """

    # From which the run starts, once that is known.
    checkpoint: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config, without the checkpoint from which this very run goes on."""
        self.config.resume = None
        if resumes_in(trainer, self.checkpoint):
            self.config.ckpt_path = None
        super().setup(trainer, pl_module, stage)
        # All processes ask for the folder, which the first one tells the others.
        folder = trainer.log_dir
        if stage == "fit" and trainer.is_global_zero and folder is not None and "://" not in folder:
            _write_provenance(trainer, self.checkpoint, Path(folder) / PROVENANCE)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config of `fit`, on the first process."""
        if stage != "fit":
            return
        config = self.config.as_dict()
        parts: dict[str, Any] = {name: config[name] for name in ("seed_everything", "model", "data") if name in config}
        parts["trainer"] = {name: config["trainer"][name] for name in _TRAINER if name in config.get("trainer", ())}
        settings = dict(_flat("", parts))
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings)
                continue
            # Without metrics it only goes into hparams.yaml; with them Lightning would log values of theirs too.
            logger.log_hyperparams(settings, metrics={})
            for summary in hparams(settings, {"val/loss": 0.0}):
                logger.experiment._get_file_writer().add_summary(summary)
            text = self.parser.dump(self.config, skip_none=False)
            logger.experiment.add_custom_scalars(LAYOUT)
            logger.experiment.add_text("config", f"```yaml\n{text}\n```")


def _write_provenance(trainer: Trainer, checkpoint: str | None, path: Path) -> None:
    """Add a line that says how and of what a run was started."""
    # No commit outside of a clone, or without git.
    commit = ""
    with suppress(OSError):
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    datamodule = getattr(trainer, "datamodule", None)
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{PROGRAM} {printable(shlex.join(sys.argv[1:]))}",
        "resumed_from": checkpoint and shown(Path(checkpoint)),
        "processes": trainer.world_size,
        "device": str(trainer.strategy.root_device),
        "commit": commit or None,
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
        "data": datamodule.fingerprint() if isinstance(datamodule, SpeechDataModule) else None,
    }
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{json.dumps(record)}\n", encoding="utf-8")


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
