"""Seconds of work on a device, and the times that the process waited for it."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch

from sections.host_waits import HostWaits


def seconds(work: Callable[[], object], device: torch.device, count: int = 3, warm_up: int = 1) -> float:
    """Return the mean seconds of `count` calls, after some that do not count."""
    for _ in range(warm_up):
        work()
    wait(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    wait(device)
    return (time.perf_counter() - start) / count


def wait(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def waits(work: Callable[[], object], device: torch.device) -> Counter[str]:
    """Return what made the process wait for the device during a call: on a GPU by place, elsewhere by operation."""
    if device.type != "cuda":
        with HostWaits() as waits:
            work()
        return waits.counts
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    places = [each for each in caught if "synchronizing CUDA operation" in str(each.message)]
    return Counter(f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in places)


def gigabytes(device: torch.device) -> float:
    """Return the memory of a GPU that torch needs to hold, in 10⁹ bytes; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) / 1e9
