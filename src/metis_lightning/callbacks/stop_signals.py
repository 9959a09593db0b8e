"""A run that is told to stop ends behind a step, saves, and says how it goes on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from metis_lightning.callbacks.checkpoints import run_checkpoints, shown
from metis_lightning.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals(Callback):
    """Ends a run at the end of the update in which Ctrl-C or SIGTERM came; the second of a kind ends it at once.

    The newest state is saved, also before Lightning requeues a job of SLURM's, and the exit status is the shell's for
    the signal. `command` is what goes on, without the checkpoint. Processes agree without waiting for their devices.
    """

    # That of a trainer, to whose processes signals are passed on until it trains.
    launcher: Any = None

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.received: int | None = None
        self._requeue: Callable[[int, FrameType | None], object] | None = None
        self._is_training, self._speaks, self._step = False, True, -1

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block, signals come here."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
        except Stopped as stopped:
            # Processes of the run were sent SIGTERM, whatever came here.
            raise Stopped(self.received, stopped.text) from stopped
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there are steps to wait for the end of."""
        self._is_training, self._speaks, self._step = True, trainer.is_global_zero, trainer.global_step
        self.launcher = None
        # A group on the CPU: agreeing on NCCL's would wait for the devices.
        self._group = None
        if trainer.world_size > 1 and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            # Lightning's own handler for SIGTERM ends with status 0 and saves nothing.
            for number in _SIGNALS:
                signal.signal(number, self._handle)
            if callable(requeue := signal.getsignal(signal.SIGUSR1)):
                self._requeue = requeue
                signal.signal(signal.SIGUSR1, self._handle)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """End with `Stopped`, which has the signal's exit status, if any process was told to stop."""
        # Gradients that are being gathered are in no checkpoint.
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        number = self.received or 0
        if trainer.world_size > 1:
            largest = torch.tensor(number)
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=self._group)
            number = int(largest)
        if number:
            saved = next((shown(callback.save_newest(trainer)) for callback in run_checkpoints(trainer)), None)
            # Lightning's own handler asks SLURM to start the job again.
            if number == signal.SIGUSR1 and self._requeue is not None:
                self.received = None
                self._requeue(number, None)
                return
            self._is_training = False
            if trainer.is_global_zero:
                name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                rest = "; this run saves no checkpoints"
                if saved is not None:
                    rest = f", saved as {saved}; go on with: {shlex.join([*self.command, '--ckpt_path', saved])}"
                text = f"\nmetis-lightning: stopped by {name} after step {trainer.global_step}{rest}"
                print(text, file=sys.stderr, flush=True)
            raise Stopped(number if trainer.is_global_zero else None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received == number
        self.received = self.received or number
        launched = [process for process in getattr(self.launcher, "procs", []) if process.pid is not None]
        started = [p for p in launched if (p.poll() is None if isinstance(p, Popen) else p.is_alive())]
        for process in started:
            # At a terminal they were sent Ctrl-C themselves, and a second one would end them at once.
            os.kill(process.pid, signal.SIGTERM)
        if started and isinstance(self.launcher, _MultiProcessingLauncher):
            return  # they do the work, and their end is ours
        if again or not self._is_training:
            way = f"what is saved goes on with: {shlex.join([*self.command, '--resume', 'auto'])}"
            raise Stopped(number, f"metis-lightning: stopped; {way if self._is_training else 'nothing was trained'}")
        if self._speaks:
            print("\nmetis-lightning: stopping at the end of this step; once more stops at once", file=sys.stderr)
