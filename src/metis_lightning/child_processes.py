"""Processes that end with the one that started them. Light to import: it runs before torch and numpy are loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping


def end_with_parent(at_interrupt: signal.Handlers | None = None) -> None:
    """End this process when its parent is gone, even by SIGKILL; `at_interrupt` is what Ctrl-C does here, or None."""
    if at_interrupt is not None:
        signal.signal(signal.SIGINT, at_interrupt)
    # The parent of a forked server's child is the server to the system: ours is known by the pipe that it holds.
    parent = multiprocessing.parent_process()
    started_by = os.getppid()

    def watch() -> None:
        if parent is not None:
            parent.join()
        else:
            while os.getppid() == started_by:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_launcher(environment: Mapping[str, str]) -> None:
    """Do so if torchrun or Lightning started this process as one of several; others may outlive their shell."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment
    by_lightning = environment.get("LOCAL_RANK", "0") != "0" and "RANK" not in environment
    if by_torchrun or (by_lightning and "SLURM_PROCID" not in environment):
        end_with_parent()
