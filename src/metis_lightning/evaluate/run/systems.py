"""Systems under test: each turns a test item into a waveform.

The controls bound what a model can do: `input` plays what the model is given as its source, `target` is the reference,
`resynthesis` that after a round trip through the acoustic codec, and `oracle` that spoken again by stage 2 from its own
SSL tokens: what it lacks no stage 1 can mend. Both are by the bundle `--base`. Without such a signal, and `oracle`
without a stage 2, there is no such control.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.comparison import CONTROLS
from metis_lightning.evaluate.run.outputs import MISSING_FILE, PREFIX, Items, Output, Run, WavFolder, read_output
from metis_lightning.files import sha256_of
from metis_lightning.models.inference import usual_precision
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis, Options, Request, Settings
from metis_lightning.safe_parsing import load_json
from metis_lightning.task_table import Task, task_named
from metis_lightning.types import WAVE_RATE, Recording, TestItem, Trial
from metis_lightning.weights.build import missing_stage2, part_for
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, read_index

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._ -]*")


@dataclass(frozen=True)
class System:
    """A name for tables, what decides its output, and how it is loaded; `extra_files` of a folder belong to no item."""

    name: str
    identity: Mapping[str, Any]
    load: Callable[[], Run]
    is_seeded: bool = False
    control: str | None = None
    extra_files: tuple[str, ...] = ()


def make_systems(names: Sequence[str], options: EvaluateOptions, device: str, items: Items) -> list[System]:
    """Return the systems that are named as `S` or `NAME=S`. A `UserError` if there is none, or two have one name."""
    # Names are those of folders and of rows in tables, so no two may be alike.
    systems = [_system(name, options, device, items) for name in names]
    labels = [system.name for system in systems]
    if doubled := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"--system: several systems would be called {doubled}; tell them apart as NAME={names[0]}")
    return systems


def _system(text: str, options: EvaluateOptions, device: str, items: Items) -> System:
    head, sign, tail = text.partition("=")
    is_named = bool(sign and tail and _NAME.fullmatch(head))
    # A checkpoint's path may hold the sign, too, as in epoch=3.ckpt.
    if sign and not is_named and (tail in CONTROLS or tail.startswith(PREFIX)):
        raise UserError(f"--system {text}: {head!r} cannot name a folder: use A-Z a-z 0-9 . _ - and no dot first")
    source = tail if is_named else text
    if source in CONTROLS:
        system = _control(source, options, device)
    elif source.startswith(PREFIX):
        system = _wav_system(Path(source.removeprefix(PREFIX)), items)
    else:
        system = _model(source, options, device)
    name = head if is_named else system.name
    if not _NAME.fullmatch(name):
        raise UserError(f"--system {text}: {name!r} cannot name a folder; give the system a name as NAME={source}")
    return replace(system, name=name)


def _control(name: str, options: EvaluateOptions, device: str) -> System:
    if name == "oracle":
        return _oracle(options, device)
    is_coded, signal = name == "resynthesis", "mixture" if name == "input" else "target"

    def load() -> Run:
        metis = Metis.codecs_only(options.base, device) if is_coded else None

        def run(trial: Trial, item: TestItem, seed: int) -> Output:
            if metis is not None:
                return Output(metis.resynthesize(item.signal(signal)).wave)
            recording = item.recording(signal) or Recording(item.signal(signal), WAVE_RATE)
            return Output(recording.wave, sample_rate=recording.sample_rate)

        return run

    identity = {"bundle": _bundle_hash(options.base)} if is_coded else {}
    return System(name, identity, load, control=name)


def _oracle(options: EvaluateOptions, device: str) -> System:
    """Return stage 2 and the codec after a stage 1 that guesses every token right. A `UserError` without stage 2."""
    if missing := missing_stage2(bundle_folder(options.base)):
        raise UserError(f"--system oracle: the bundle {options.base} lacks {' and '.join(missing)}; name one as --base")
    precision = options.precision or usual_precision(device)

    def load() -> Run:
        metis = Metis.without_stage1(options.base, device, precision)

        def run(trial: Trial, item: TestItem, seed: int) -> Output:
            task = trial_task(options.task, trial)
            # What no model of the task is given, it is not given either.
            prompt = item.enrollment if "prompt" in task.inputs else None
            speech = metis.respeak(item.signal("target"), prompt, seed, task.settings)
            return Output(speech.wave, steps=sum(task.settings.layer_steps(speech.acoustic_tokens.shape[1])))

        return run

    # Of stage 2 alone: the options are of stage 1.
    by_task = {name: task_named(name).settings.described() for name in task_named(options.task).served}
    for settings in by_task.values():
        del settings["stage1"]
    identity = {"bundle": _bundle_hash(options.base), **_sampling_identity(by_task, precision)}
    return System("oracle", identity, load, is_seeded=True, control="oracle")


def _wav_system(path: Path, items: Items) -> System:
    folder = WavFolder.of(path, items)

    def read(trial: Trial, item: TestItem, seed: int) -> Output:
        # Whatever its rate and channels.
        file = folder.files.get(item.id)
        return Output.failed(MISSING_FILE) if file is None else read_output(file)

    name, identity = path.resolve().name, {"wavs": folder.digest(items.chosen), **_about(path)}
    return System(name, identity, lambda: read, extra_files=tuple(folder.extra))


def _model(source: str, options: EvaluateOptions, device: str) -> System:
    precision = options.precision or usual_precision(device)

    def load() -> Run:
        metis = Metis.from_pretrained(source, options.task, options.base, device, precision)

        def run(trial: Trial, item: TestItem, seed: int) -> Output:
            task = trial_task(options.task, trial)
            settings = _settings_for(task, options)
            speech = metis.generate([_request_for(metis, task, item, options)], seed, settings)[0]
            layers = settings.layer_steps(speech.acoustic_tokens.shape[1])
            return Output(speech.wave, steps=settings.stage1.num_steps + sum(layers))

        return run

    path = Path(source)
    name = path.name
    if path.suffix == ".ckpt":
        # A checkpoint is named after its run.
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        name = folder.name or path.stem
    return System(name, _model_identity(source, options, precision), load, is_seeded=True)


def _about(folder: Path) -> dict[str, Any]:
    """Return what `about.json` in a folder of audio says of what made it: versions, hashes. A `UserError` if broken."""
    path = folder / "about.json"
    if not path.is_file():
        return {}
    try:
        return {"about": load_json(path.read_bytes())}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); mend it, or remove it") from error


def _sampling_identity(by_task: Mapping[str, Mapping[str, Any]], precision: Precision) -> dict[str, Any]:
    """Return what decides an output beside the weights, given the sampler's settings by task, as JSON has it."""
    settings = next(iter(by_task.values())) if len(by_task) == 1 else by_task
    identity = {"settings": json.loads(json.dumps(settings))}
    # What was made before there was a choice was made in float32, and stays what it is.
    return identity if precision == "float32" else {**identity, "precision": precision}


def _bundle_hash(name: str) -> str:
    """Return the SHA-256 of a bundle's index, which has those of its files."""
    return sha256_of(bundle_folder(name) / BUNDLE_INDEX)


def _model_identity(source: str, options: EvaluateOptions, precision: Precision) -> dict[str, Any]:
    """Return what decides a model's output. A `UserError` if there is no such checkpoint or no weights for the task."""
    by_task: dict[str, dict[str, Any]] = {}
    for task in map(task_named, task_named(options.task).served):
        by_task[task.name] = _settings_for(task, options).described()
        if "text" in task.optional:
            by_task[task.name]["text_guided"] = options.text_guided
        if task.speaks_text:
            by_task[task.name]["tts_length"] = options.tts_length
    identity = _sampling_identity(by_task, precision)
    path = Path(source)
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise UserError(f"--system {source}: no such checkpoint")
        base = _bundle_hash(options.base)
        return {"checkpoint": sha256_of(path), "base": base, **identity}
    bundle = _bundle_hash(source)
    config = part_config(source, options.task)
    if config is None:
        raise UserError(
            f"--system {source}: the bundle has no weights for the task {options.task!r}; "
            "fine-tune for it and give the checkpoint"
        )
    if options.text_guided and not config.get("text"):
        raise UserError(f"--text-guided: the weights for {options.task} in {source} take no text; give Omni's")
    return {"bundle": bundle, **identity}


def part_config(bundle: str, task: str) -> Mapping[str, Any] | None:
    """Return the config of the part of a bundle that serves a task; None if there is none."""
    parts = read_index(bundle_folder(bundle))["parts"]
    configs = {key: part["config"] for key, part in parts.items() if "base_sha256" in part["config"]}
    chosen = part_for(configs, task)
    return None if chosen is None else configs[chosen]


def trial_task(name: str, trial: Trial) -> Task:
    """Return which task a trial is in an evaluation of the task `name`."""
    return task_named(trial.task if task_named(name).covers else name)


def _settings_for(task: Task, options: EvaluateOptions) -> Settings:
    # The released ones, but for what the options say.
    names = ("preset", "num_steps", "guidance_scale")
    changed = {name: value for name in names if (value := getattr(options, name)) is not None}
    return task.settings.chosen(cast(Options, changed))


def _request_for(metis: Metis, task: Task, item: TestItem, options: EvaluateOptions) -> Request:
    """Return the request to a pipeline for an item; UserError if the item lacks what the task needs."""
    inputs: dict[str, Any] = {}
    if task.condition == "features" or (task.condition == "any" and item.features is not None):
        inputs["features"] = item.signal("features")
    elif task.condition is not None:
        inputs["source"] = item.signal("mixture")
    if "prompt" in task.inputs:
        inputs["prompt"] = item.enrollment if "prompt" in task.optional else item.signal("enrollment")
    is_guided = options.text_guided and "text" in task.optional
    if is_guided and not (item.text and item.prompt_text):
        raise UserError(f"{item.id}: the texts of the target and of its enrollment are not both known (--text-guided)")
    if task.speaks_text or is_guided:
        inputs |= {"text": item.text or "", "prompt_text": item.prompt_text, "language": item.language}
    if task.speaks_text and options.tts_length == "reference":
        inputs["seconds"] = len(item.signal("target")) / WAVE_RATE
    return metis.request(task.name, **inputs)
