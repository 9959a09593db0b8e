"""Lightning's commands (fit, validate, test, predict) over configs that name their classes by `class_path`.

Beyond LightningCLI: a mistake is one line, and a checkpoint gives weights only. It is read without running code, and
the hyper-parameters it carries do not override the config, which alone says what is built.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from metis_lightning.callbacks.checkpoints import CheckpointFiles, RunCheckpoint, run_checkpoints, shown
from metis_lightning.callbacks.gradients import FiniteGuard
from metis_lightning.callbacks.run_folder import LoggedConfig, check_folders, resumes_in, set_aside
from metis_lightning.callbacks.stop_signals import StopSignals
from metis_lightning.callbacks.throughput import RunProgressBar
from metis_lightning.errors import UserError
from metis_lightning.files import locked
from metis_lightning.options import PROGRAM
from metis_lightning.trainer.explain import explain_parse_error, one_line_mistakes
from metis_lightning.trainer.overlays import merge_configs
from metis_lightning.trainer.sharded import ShardedStrategy
from metis_lightning.weights.checkpoint import newest_whole, open_checkpoint
from metis_lightning.weights.checks import check_fields, check_run, check_version

# Values of --ckpt_path that name no file: the newest of the run's folder, and those that Lightning finds itself.
_LAST = "last"
_SPECIAL_CHECKPOINTS = (_LAST, "best", "hpc")
_RUN_CHECKPOINT = f"{RunCheckpoint.__module__}.{RunCheckpoint.__qualname__}"
_DEFAULT_LOGGER = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "default"},
}


class ParseError(Exception):
    """An error of the parser, and the (sub)parser whose keys the arguments were checked against."""

    parser: LightningArgumentParser


class OneLineArgumentParser(LightningArgumentParser):
    """A parser that raises `ParseError` where jsonargparse exits, and reads no files: `overlays` does."""

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:  # noqa: ANN401  passed on
        """Add the arguments of a class, none of which can be the name of a file that holds its value."""
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `ParseError`."""
        mistake = ParseError(message)
        mistake.parser = getattr(ex, "subcommand_parser", None) or self
        raise mistake from ex


class MetisCLI(LightningCLI):
    """LightningCLI with the project's defaults; see the module's text for what differs."""

    def __init__(
        self, args: Sequence[str], examples: dict[str, str], run: bool = True, stop: StopSignals | None = None
    ) -> None:
        """Parse merged configs, build and, with `run`, carry out the command that `args` begin with; `stop` ends it."""
        self._stop = stop
        settings = merge_configs(args)
        self._files = settings.files
        # Said by one of the processes.
        for line in settings.dropped if getattr(rank_zero_only, "rank", 0) == 0 else ():
            print(f"metis-lightning: {line}", file=sys.stderr)
        if run and settings.missing and not any(arg.startswith("--print_config") for arg in args):
            raise UserError(f"the configs leave open what must be given: {' VALUE, '.join(settings.missing)} VALUE")
        epilogs = {command: {"epilog": f"example: {PROGRAM} {text}"} for command, text in examples.items()}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=OneLineArgumentParser,
            # References such as ${trainer.max_steps} are resolved last, over all configs and options together.
            parser_kwargs={"parser_mode": "omegaconf+", "prog": PROGRAM, "allow_abbrev": False} | epilogs,
            save_config_callback=LoggedConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"logger": _DEFAULT_LOGGER},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # LightningCLI warns when it is handed arguments that the process has too.
            args=None if settings.args == sys.argv[1:] else settings.args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands and the arguments they do not show; `weights_only` is not for the user to choose."""
        return {command: hidden | {"weights_only"} for command, hidden in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither the trainer's nor a class's."""
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high"],
            default="highest",
            help="high: a GPU computes what is float32, the frozen front end too, in TF32; stored tokens know the "
            "difference",
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto"] | None,
            default=None,
            help="auto: go on from the newest sound checkpoint of the run's folder, or start if there is none",
        )

    def instantiate_classes(self) -> None:
        """Build what the config says, and what every run has beyond (`prepare_settings`)."""
        # Before all: the fingerprints of tokens depend on how products are computed.
        torch.set_float32_matmul_precision(self._get(self.config, "float32_matmul_precision"))
        # The run's config.yaml is to hold what the user said, not what we make of it.
        said, self.config = self.config, self.config.clone()
        prepare_settings(self._get(self.config, "trainer"), str(self.subcommand))
        super().instantiate_classes()
        self.config = said

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what the parser says of a mistake becomes a `UserError` of one line."""
        try:
            super().parse_arguments(parser, args)
        except ParseError as error:
            known = error.parser.get_defaults().keys(branches=True)
            raise UserError(explain_parse_error(str(error), known, self._files)) from error
        except OmegaConfBaseException as error:
            raise UserError(f"a reference in the config: {error}") from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        # That settings do not go together, or not with this machine, is said in many ways.
        try:
            kinds = tuple(type(each) for each in config["callbacks"] or ())
            guards: list[Callback] = [] if any(issubclass(each, FiniteGuard) for each in kinds) else [FiniteGuard()]
            # Lightning's own choice counts to epoch -2 where a run ends by its steps.
            if config["enable_progress_bar"] is not False and not any(issubclass(each, ProgressBar) for each in kinds):
                guards.append(RunProgressBar())
            trainer: Trainer = super()._instantiate_trainer(config, [*callbacks, *guards])
        except (MisconfigurationException, ValueError, RuntimeError, ImportError, AttributeError, TypeError) as error:
            options = "--trainer.accelerator, --trainer.devices, --trainer.strategy"
            raise UserError(f"trainer: {error} (check {options})") from error
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | ShardedStrategy):
            name, ours = type(trainer.strategy).__name__, f"{ShardedStrategy.__module__}.{ShardedStrategy.__name__}"
            raise UserError(f"trainer: the strategies are auto, ddp and {ours} (DDP or FSDP2), not {name}")
        # A user's own plugin stays.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        if self._stop is not None:
            self._stop.launcher = trainer.strategy.launcher
            cast(list[Callback], vars(trainer)["callbacks"]).append(self._stop)
        return trainer

    def fit(self, **arguments: Any) -> None:
        """Train, in a folder of the run's own unless it goes on in the one that is there; no other run writes there."""
        with ExitStack() as held:
            # One process holds the locks for all of the run.
            savers = run_checkpoints(self.trainer) if getattr(rank_zero_only, "rank", 0) == 0 else []
            for folder in {callback.home(self.trainer) for callback in savers}:
                held.enter_context(locked(folder))
            if not resumes_in(self.trainer, self._resolved_checkpoint):
                set_aside(self.trainer)
            for callback in vars(self.trainer)["callbacks"]:
                if isinstance(callback, LoggedConfig):
                    callback.checkpoint = self._resolved_checkpoint
            self.trainer.fit(**arguments)

    def _parse_ckpt_path(self) -> None:
        # Lightning would here let the checkpoint's hyper-parameters override the config.
        check_checkpoint(self._checkpoint())

    def _checkpoint(self) -> str | None:
        path = self.config.get(str(self.config.get("subcommand")), {}).get("ckpt_path")
        return None if path is None else str(path)

    @cached_property
    def _resolved_checkpoint(self) -> str | None:
        path, is_auto = self._checkpoint(), self._get(self.config, "resume") == "auto"
        if is_auto and path is not None:
            raise UserError("--resume auto finds the checkpoint itself; leave out --ckpt_path")
        folders = [callback.folder(self.trainer) for callback in run_checkpoints(self.trainer)]
        if is_auto:
            return self._newest_sound(folders)
        if path != _LAST:
            return path
        files = [file for folder in folders for file in folder.glob("last*.ckpt")]
        return str(max(files, key=lambda file: file.stat().st_mtime, default=path))

    def _newest_sound(self, folders: Sequence[Path]) -> str | None:
        passed_over = dict[Path, str]()
        found = [sound for folder in folders if (sound := newest_whole(folder, passed_over)) is not None]
        path, step = max(found, key=lambda sound: sound[1], default=(None, 0))
        for bad, reason in passed_over.items():
            rank_zero_info(f"--resume auto: passed over {shown(bad)}: {reason}")
        place = ", ".join(map(shown, folders)) or "this run, which saves none"
        what = f"goes on from {shown(path)}, of step {step}" if path else f"starts: there is no checkpoint in {place}"
        rank_zero_info(f"--resume auto: {what}")
        return None if path is None else str(path)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        check_folders(self.trainer)
        # Whatever else a checkpoint holds, it is read as weights only.
        arguments = super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
        path = self._resolved_checkpoint
        if (content := check_checkpoint(path)) is not None:
            check_version(content, f"checkpoint {path}")
            if subcommand == "fit":
                check_run(content, self.trainer.fit_loop.state_dict(), f"checkpoint {path}")
        return arguments | {"ckpt_path": path}


def prepare_settings(settings: Namespace, command: str) -> None:
    """Change the settings below `trainer`: checkpoints are `RunCheckpoint`'s, and only `fit` logs where `fit` does."""
    callbacks = settings.callbacks if isinstance(settings.callbacks, list) else [settings.callbacks or []]
    settings.callbacks = [each for each in callbacks if each]
    kinds = ("ModelCheckpoint", RunCheckpoint.__name__)
    saves = [each for each in settings.callbacks if each.class_path.rpartition(".")[2] in kinds]
    # Whatever a config says of when to save, files are whole, and `last.ckpt` is the newest state.
    for each in saves:
        each.class_path = _RUN_CHECKPOINT
    if not saves and settings.enable_checkpointing is not False and not settings.barebones:
        saves = [Namespace(class_path=_RUN_CHECKPOINT, init_args=Namespace())]
        settings.callbacks += saves
    if saves and not any(each.init_args.get("save_last") for each in saves):
        own = saves[0].init_args
        own.save_last = True if own.get("save_last") is None else own.save_last
    loggers = settings.logger if isinstance(settings.logger, list) else [settings.logger]
    for logger in loggers if command != "fit" else ():
        if isinstance(logger, Namespace) and logger.class_path.endswith(".TensorBoardLogger"):
            logger.init_args.sub_dir = logger.init_args.get("sub_dir") or command


def run_trainer_command(args: list[str], examples: dict[str, str]) -> None:
    """Run a command of Lightning's; `examples` are for its help. A `UserError` if config or checkpoint do not fit."""
    # What it says at the end is how to go on, for which the old checkpoint is not wanted.
    words = zip(["", *args], args, strict=False)
    where = ("--ckpt_path", "--resume")
    kept = [word for option, word in words if not word.startswith(where) and option not in where]
    stop = StopSignals([*PROGRAM.split(), *kept])
    with stop.installed(), one_line_mistakes():
        MetisCLI(args, examples, stop=stop)


def build_from_config(args: Sequence[str]) -> MetisCLI:
    """Return what `fit` would build of arguments without the command. A `UserError` if the config does not fit."""
    with one_line_mistakes():
        return MetisCLI(args, {}, run=False)


def check_checkpoint(path: str | None) -> dict[str, Any] | None:
    """Return a checkpoint's content, tensors on disk; None if the path is no file's. A `UserError` if it is none."""
    if path is None or path in _SPECIAL_CHECKPOINTS or "://" in path or path.startswith("registry"):
        return None
    if not Path(path).exists():
        raise UserError(f"checkpoint {path} does not exist; check --ckpt_path")
    if Path(path).is_dir():
        raise UserError(f"checkpoint {path} is a folder; name a file in it")
    # Nothing of it is run: weights only, and plain values beside them.
    content = open_checkpoint(Path(path))
    check_fields(content, f"checkpoint {path}")
    return content
