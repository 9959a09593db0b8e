"""What every run of a Trainer has, whatever its config says: checkpoints to rely on, and mistakes in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from jsonargparse import Namespace as ParsedConfig
from jsonargparse import set_parsing_settings
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from metis_lightning.callbacks.checkpoints import CheckpointFiles, RunCheckpoint
from metis_lightning.callbacks.stop_signals import StopSignals
from metis_lightning.errors import Stopped, UserError
from metis_lightning.trainer.explain import explain_state_dict_error

_OURS = f"{RunCheckpoint.__module__}.{RunCheckpoint.__qualname__}"


def prepare_settings(settings: ParsedConfig, command: str) -> None:
    """Change a Trainer's settings in place: checkpoints are `RunCheckpoint`'s, and only `fit` logs where `fit` does.

    Args:
        settings: what the config says below `trainer`.
        command: what is run.
    """
    callbacks = settings.callbacks if isinstance(settings.callbacks, list) else [settings.callbacks or []]
    settings.callbacks = [each for each in callbacks if each]
    saves = [each for each in settings.callbacks if each.class_path.rpartition(".")[2] in ("ModelCheckpoint", _OURS)]
    # Whatever a config says of when to save, files are whole, and `last.ckpt` is the newest state.
    for each in saves:
        each.class_path = _OURS
    if not saves and settings.enable_checkpointing is not False and not settings.barebones:
        saves = [ParsedConfig(class_path=_OURS, init_args=ParsedConfig())]
        settings.callbacks += saves
    if saves and not any(each.init_args.get("save_last") for each in saves):
        own = saves[0].init_args
        own.save_last = True if own.get("save_last") is None else own.save_last
    loggers = settings.logger if isinstance(settings.logger, list) else [settings.logger]
    for logger in loggers if command != "fit" else ():
        if isinstance(logger, ParsedConfig) and logger.class_path.endswith(".TensorBoardLogger"):
            logger.init_args.sub_dir = logger.init_args.get("sub_dir") or command


def build_trainer(build: Callable[[], Trainer], stop: StopSignals | None) -> Trainer:
    """Return a Trainer that writes and reads checkpoints as `CheckpointFiles` does, and that signals stop.

    Raises:
        UserError: if its settings do not go together or not with this machine, or are a strategy other than DDP.
    """
    try:
        trainer = build()
    except (MisconfigurationException, ValueError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        raise UserError(
            f"trainer: {error} (check --trainer.accelerator, --trainer.devices, --trainer.strategy)"
        ) from error
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        name = type(trainer.strategy).__name__
        raise UserError(f"trainer: DDP only, not the strategy {name}; give --trainer.strategy auto or ddp")
    # A user's own plugin stays.
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFiles()
    if stop is not None:
        stop.watch(trainer)
        cast(list[Callback], vars(trainer)["callbacks"]).append(stop)
    return trainer


@contextmanager
def one_line_mistakes() -> Iterator[None]:
    """Within the block, say nothing beside the point, and raise what is no bug of ours as one line."""
    # Without this, a reference would have to start with the command: ${fit.trainer.max_steps}.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")
    # It knows of resumable loaders only, not of our data module, which does resume.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    # Lightning recommends other products at the start of every run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip: For seamless" not in record.getMessage()
    )
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code in (130, 143):
            # It has said itself what was saved.
            raise Stopped(error.exit_code - 128) from error
        raise UserError(f"{_end_of(error)}; go on from the last checkpoint with --ckpt_path last") from error
    except Exception as error:
        mistake = _mistake_behind(error)
        if mistake is None:
            raise
        raise mistake from error


def _mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the user's mistake that an exception came from; None if it came from a bug.

    An exception in a class's constructor reaches us as the cause of a ValueError of jsonargparse's, and one in a
    process of the run as the text of its traceback.
    """
    while error is not None:
        if isinstance(error, UserError):
            return error
        if isinstance(error, MisconfigurationException):
            return UserError(f"trainer: {error}")
        if isinstance(error, ProcessRaisedException):
            line = str(error).strip().splitlines()[-1]
            name, _, text = line.partition(": ")
            return UserError(text) if name.endswith(UserError.__name__) else None
        if isinstance(error, RuntimeError | ValueError) and (reason := explain_state_dict_error(str(error))):
            return UserError(f"{reason}; check --ckpt_path and the sizes in the config")
        error = error.__cause__
    return None


def _end_of(error: ProcessExitedException) -> str:
    """Return how a process of a run ended that said nothing."""
    how = f"ended with status {error.exit_code}" if error.exit_code >= 0 else "was killed, perhaps for want of memory"
    return f"process {error.error_index} of the run {how}"
