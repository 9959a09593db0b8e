"""Systems under test: each turns a trial into a waveform.

The controls bound what a model can do: `input` does nothing, `target` is the reference itself, and `resynthesis` is the
reference after a round trip through the acoustic codec.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.pipeline import TSE_SETTINGS, Metis, Settings
from metis_lightning.types import TestItem
from metis_lightning.weights.bundle import INDEX, bundle_folder

CONTROLS = ("input", "target", "resynthesis")


@dataclass(frozen=True)
class System:
    """A name for tables, what decides its output (for the fingerprint), and how it is made.

    `load` returns the function from a trial and a seed to a waveform (S,) at 24 kHz; models are loaded only then.
    """

    name: str
    identity: Mapping[str, Any]
    load: Callable[[], Callable[[TestItem, int], Tensor]]


@dataclass(frozen=True)
class Generated:
    """A waveform (S,) at 24 kHz, and the seconds that it took to make."""

    wave: Tensor
    seconds: float


def generate(run: Callable[[TestItem, int], Tensor], item: TestItem, seed: int) -> Generated:
    """Run a loaded system on a trial and time it."""
    start = time.perf_counter()
    wave = run(item, seed)
    return Generated(wave, time.perf_counter() - start)


def control(name: str, codec: str, device: str) -> System:
    """Return a built-in control; `codec` is the bundle that resynthesizes."""
    if name == "input":
        return System(name, {}, lambda: lambda item, seed: item.signal("mixture"))
    if name == "target":
        return System(name, {}, lambda: lambda item, seed: item.signal("target"))
    identity = {"bundle": sha256_of(bundle_folder(codec) / INDEX)}

    def load() -> Callable[[TestItem, int], Tensor]:
        metis = Metis.codecs_only(codec, device)
        return lambda item, seed: metis.resynthesize(item.signal("target")).wave

    return System(name, identity, load)


def tse_system(name: str, num_steps: int | None, device: str) -> System:
    """Return target speaker extraction by a bundle or a checkpoint.

    Raises:
        UserError: if there is no such bundle or checkpoint.
    """
    settings = TSE_SETTINGS
    if num_steps is not None:
        settings = replace(settings, stage1=replace(settings.stage1, num_steps=num_steps))

    def load() -> Callable[[TestItem, int], Tensor]:
        metis = Metis.from_pretrained(name, task="tse", device=device)
        return lambda item, seed: metis.extract(item.signal("mixture"), item.signal("enrollment"), seed, settings).wave

    return System(_label(name), _identity(name, settings), load)


def _label(name: str) -> str:
    """Return a short name for tables: a run's folder for a checkpoint, a bundle's own name."""
    path = Path(name)
    if path.suffix != ".ckpt":
        return path.name
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return run.name or path.stem


def _identity(name: str, settings: Settings) -> dict[str, Any]:
    path = Path(name)
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise UserError(f"--system {name}: no such checkpoint")
        return {"checkpoint": sha256_of(path), "settings": repr(settings)}
    return {"bundle": sha256_of(bundle_folder(name) / INDEX), "settings": repr(settings)}
