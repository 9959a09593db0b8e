"""Systems under test: each turns a test item into a waveform.

The controls bound what a model can do: `input` does nothing, `target` is the reference itself, and `resynthesis` is the
reference after a round trip through the acoustic codec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.comparison import CONTROLS
from metis_lightning.evaluate.run.outputs import PREFIX, Output, Run, WavFolder
from metis_lightning.evaluate.run.tasks import Asking, request_of, task_of
from metis_lightning.files import sha256_of
from metis_lightning.models.inference import Precision, usual_precision
from metis_lightning.pipeline import Metis, Settings
from metis_lightning.task_table import Task, task_named
from metis_lightning.types import WAVE_RATE, Recording, TestItem, Trial
from metis_lightning.weights.bundle import INDEX, bundle_folder, read_index
from metis_lightning.weights.task_weights import part_for

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._ -]*")


@dataclass(frozen=True)
class System:
    """A name for tables, what decides its output (for the fingerprint), and how it is made.

    load: makes the function that runs it; models are loaded only then.
    is_seeded: whether its output depends on the seed.
    control: which control it is; None if none.
    extra_files: those of a folder that belong to no item.
    """

    name: str
    identity: Mapping[str, Any]
    load: Callable[[], Run]
    is_seeded: bool = False
    control: str | None = None
    extra_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class SystemOptions:
    """What makes systems of the names on the command line.

    task: what is evaluated.
    base: bundle of the codec behind `resynthesis`, and that checkpoints belong to.
    device: where models run.
    num_steps, guidance_scale: of stage 1's sampler; None for the released ones of the task.
    precision: of both stages; None for the device's usual one.
    text_guided, tts_length: see `Asking`.
    """

    task: str
    base: str = "nano"
    device: str = "cpu"
    num_steps: int | None = None
    guidance_scale: float | None = None
    precision: Precision | None = None
    text_guided: bool = False
    tts_length: str = "predicted"

    def __post_init__(self) -> None:
        """Refuse what the task has no use for."""
        tasks = [task_named(name) for name in task_named(self.task).served]
        if self.text_guided and not any(task.is_guided_by_text for task in tasks):
            raise UserError(f"--text-guided: it is for the tasks tse and omni, not for {self.task}")
        if self.tts_length != "predicted" and not any(task.speaks_text for task in tasks):
            raise UserError(f"--tts-length {self.tts_length}: it is for the tasks tts and omni, not for {self.task}")

    @property
    def chosen_precision(self) -> Precision:
        """The precision of both stages."""
        return self.precision or usual_precision(self.device)

    def asking(self, task: str) -> Asking:
        """Return how a task is asked of a model."""
        settings = task_named(task).settings
        changed: dict[str, Any] = {"num_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        stage1 = replace(settings.stage1, **{k: v for k, v in changed.items() if v is not None})
        return Asking(replace(settings, stage1=stage1), self.text_guided, self.tts_length)


@dataclass(frozen=True)
class Items:
    """The ids that systems are run on, all that the test sets have, whatever the limit, and ids by others' names."""

    chosen: Collection[str]
    known: Collection[str]
    by_other_name: Mapping[str, str] = field(default_factory=dict)


def make_systems(names: Sequence[str], options: SystemOptions, items: Items) -> list[System]:
    """Return the systems that the command line names, as `S` or `NAME=S`.

    Raises:
        UserError: there is no such control, folder, bundle or checkpoint, or two have one name.
    """
    systems = [_system(name, options, items) for name in names]
    labels = [system.name for system in systems]
    if doubled := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"--system: several systems would be called {doubled}; tell them apart as NAME={names[0]}")
    return systems


def has_control(control: str, task: Task, item: TestItem) -> bool:
    """Return whether a task and an item have the signal that a control plays."""
    if control == "input":
        return task.condition in ("source", "any") and item.mixture is not None
    return item.target is not None


def answers(name: str, task: str) -> bool:
    """Return whether a bundle has weights for a task; of a checkpoint, which is not read here, always true."""
    return name.endswith(".ckpt") or _answering(name, task) is not None


def _answering(bundle: str, task: str) -> Mapping[str, Any] | None:
    """Return the config of the part of a bundle that answers a task; None if there is none."""
    parts = read_index(bundle_folder(bundle))["parts"]
    configs = {key: part["config"] for key, part in parts.items() if "base_sha256" in part["config"]}
    found = part_for(configs, task)
    return None if found is None else configs[found]


def _system(text: str, options: SystemOptions, items: Items) -> System:
    head, sign, tail = text.partition("=")
    named = bool(sign and tail and _NAME.fullmatch(head))
    if sign and not named and (tail in CONTROLS or tail.startswith(PREFIX)):
        raise UserError(f"--system {text}: {head!r} cannot name a folder: use A-Z a-z 0-9 . _ - and no dot first")
    label, source = (head, tail) if named else (None, text)
    if source in CONTROLS:
        made = _control(source, options)
    elif source.startswith(PREFIX):
        made = _wavs(Path(source.removeprefix(PREFIX)), items)
    else:
        made = _model(source, options)
    name = label or made.name
    if not _NAME.fullmatch(name):
        raise UserError(f"--system {text}: {name!r} cannot name a folder; give the system a name as NAME={source}")
    return replace(made, name=name)


def _control(name: str, options: SystemOptions) -> System:
    def play(trial: Trial, item: TestItem, seed: int) -> Output:
        signal = "mixture" if name == "input" else "target"
        recorded = item.recording(signal) or Recording(item.signal(signal), WAVE_RATE)
        return Output(recorded.wave, sample_rate=recorded.sample_rate)

    def load() -> Run:
        metis = Metis.codecs_only(options.base, options.device)
        return lambda trial, item, seed: Output(metis.resynthesize(item.signal("target")).wave)

    if name != "resynthesis":
        return System(name, {}, lambda: play, control=name)
    return System(name, {"bundle": sha256_of(bundle_folder(options.base) / INDEX)}, load, control=name)


def _wavs(path: Path, items: Items) -> System:
    folder = WavFolder.of(path, items.known, items.by_other_name)
    folder.require_some(items.chosen)
    return System(
        path.resolve().name,
        {"wavs": folder.digest(items.chosen)},
        lambda: lambda trial, item, seed: folder.read(item.id),
        extra_files=tuple(folder.extra),
    )


def _model(source: str, options: SystemOptions) -> System:
    """Return a bundle or a checkpoint.

    Raises:
        UserError: there is none, or a bundle has no weights for the task.
    """
    asked = {task: options.asking(task) for task in task_named(options.task).served}

    def load() -> Run:
        metis = Metis.from_pretrained(source, options.task, options.base, options.device, options.chosen_precision)

        def run(trial: Trial, item: TestItem, seed: int) -> Output:
            task = task_of(options.task, trial)
            asking = asked[task.name]
            speech = metis.generate([request_of(metis, task, item, asking)], seed, asking.settings)[0]
            return Output(speech.wave, steps=total_steps(asking.settings, speech.acoustic_tokens.shape[1]))

        return run

    return System(_label(source), _identity(source, options, asked), load, is_seeded=True)


def total_steps(settings: Settings, num_quantizers: int) -> int:
    """Return the steps of both stages."""
    return settings.stage1.num_steps + sum(settings.layer_steps(num_quantizers))


def _label(source: str) -> str:
    """Return a short name for tables: a run's folder for a checkpoint, a bundle's own name."""
    path = Path(source)
    if path.suffix != ".ckpt":
        return path.name
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return run.name or path.stem


def _identity(source: str, options: SystemOptions, asked: Mapping[str, Asking]) -> dict[str, Any]:
    shown = {task: each.identity(task) for task, each in asked.items()}
    found: dict[str, Any] = {"settings": shown if len(shown) > 1 else next(iter(shown.values()))}
    # What was made before there was a choice was made in float32, and stays what it is.
    if options.chosen_precision != "float32":
        found["precision"] = options.chosen_precision
    path = Path(source)
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise UserError(f"--system {source}: no such checkpoint")
        base = sha256_of(bundle_folder(options.base) / INDEX)
        return {"checkpoint": sha256_of(path), "base": base, **found}
    identity = {"bundle": sha256_of(bundle_folder(source) / INDEX), **found}
    config = _answering(source, options.task)
    if config is None:
        raise UserError(
            f"--system {source}: the bundle has no weights for the task {options.task!r}; "
            "fine-tune for it and give the checkpoint"
        )
    if options.text_guided and not config.get("text"):
        raise UserError(f"--text-guided: the weights for {options.task} in {source} take no text; give Omni's")
    return identity
