"""What is asked for: one result each, out of the options, a list or a folder, checked before anything is loaded."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from metis_lightning.data.media.audio import OUTPUT_FORMATS
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.errors import UserError
from metis_lightning.files import check_output, is_regular
from metis_lightning.generate.lists import read_list
from metis_lightning.generate.options import GenerateOptions
from metis_lightning.task_table import task_named
from metis_lightning.texts import clean_text, is_unicode, on_disk

PATHS = ("source", "prompt", "video", "features")
TEXTS = ("text", "prompt_text", "language", "prompt_language")
INPUTS = (*PATHS, *TEXTS, "seconds")
COLUMNS = ("id", *INPUTS, "seed")

_AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff"}
_VIDEO = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg"}
FOLDER_SUFFIXES: Mapping[str, set[str]] = {"source": _AUDIO, "video": _VIDEO, "features": {".npy", ".safetensors"}}
"""Which files of a folder are meant, by the option that names it."""


@dataclass(frozen=True)
class Job:
    """One result that is asked for.

    task: of `task_table.TASKS`, or one of your own.
    out: the file that is to be written.
    inputs: by name, as text.
    where: the line of a list, with a colon behind it, or nothing; what messages start with.
    labels: what messages call inputs that have no option, by name.
    """

    task: str
    id: str
    out: Path
    inputs: Mapping[str, str]
    seed: int = 0
    where: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def called(self, name: str) -> str:
        """Return what the user knows an input by."""
        return self.labels.get(name) or f"{name.replace('_', ' ')} (--{name.replace('_', '-')})"

    def path(self, name: str) -> Path | None:
        """Return the file that an input names; None if it is not given."""
        return Path(self.inputs[name]) if name in self.inputs else None

    def text(self, name: str) -> str:
        """Return a text as every reader cleans it; empty if it is not given."""
        return clean_text(self.inputs.get(name, ""))

    @property
    def seconds(self) -> float | None:
        """Return the wanted length of a text's speech; None if it is not given."""
        return float(self.inputs["seconds"]) if "seconds" in self.inputs else None


def jobs_of(options: GenerateOptions) -> list[Job]:
    """Return what the options ask for, in order.

    Raises:
        UserError: if an input is missing, is not one of the task's, or is no file; if an output would overwrite an
            input or another output.
    """
    given = {name: str(value) for name in INPUTS if (value := getattr(options, name)) not in (None, "")}
    folder = folder_input(options)
    if options.list is not None and folder is not None:
        raise UserError(f"--list and a folder as --{folder}: give one of the two")
    if options.list is not None:
        jobs = _of_list(options.list, given, options)
    elif folder is not None:
        jobs = _of_folder(folder, given, options)
    else:
        asked = Job(task_of(options.task, given), "", options.out, given, options.seed)
        # First of all: a folder of inputs that is not there looks like a single input.
        check_job(asked)
        out = _single_out(given, options.out)
        jobs = [replace(asked, id=_stem(given, out), out=out)]
    for job in jobs:
        check_job(job)
    _check_outputs(jobs)
    return jobs


def folder_input(options: GenerateOptions) -> str | None:
    """Return the name of the input that is a folder; None if each is a file."""
    given = ((name, getattr(options, name)) for name in FOLDER_SUFFIXES)
    return next((name for name, path in given if path is not None and os.path.isdir(path)), None)


def task_of(task: str, inputs: Mapping[str, str]) -> str:
    """Return the task; of Omni's, which one the inputs are for. Voice conversion cannot be told from extraction."""
    if not task_named(task).covers:
        return task
    if "source" not in inputs:
        return "tts"
    return "tse" if "prompt" in inputs else "se"


def check_job(job: Job) -> None:
    """Check that the task's inputs are given and are files.

    Raises:
        UserError: if not.
    """
    task = task_named(job.task)
    if strange := sorted(set(job.inputs) - task.inputs):
        known = ", ".join(sorted(task.inputs))
        raise UserError(f"{job.where}the task {task.name} takes no {' and no '.join(strange)}; it takes {known}")
    for names in task.needs:
        if not any(name in job.inputs for name in names):
            raise UserError(f"{job.where}the task {task.name} needs a {' or '.join(map(job.called, names))}")
    if ("text" in job.inputs) != ("prompt_text" in job.inputs) and "prompt" in job.inputs:
        missing = "prompt_text" if "text" in job.inputs else "text"
        raise UserError(f"{job.where}texts of prompt and result go together: the {job.called(missing)} is missing")
    for name in TEXTS:
        if not is_unicode(job.inputs.get(name, "")):
            raise UserError(
                f"{job.where}the {job.called(name)} is not UTF-8; write it anew, or in a list saved as UTF-8"
            )
    for name in PATHS:
        path = job.path(name)
        if path is not None and not is_regular(path):
            raise UserError(f"{job.where}{path}: no such file; check the path of the {job.called(name)}")
    _check_seconds(job)


def _check_seconds(job: Job) -> None:
    text = job.inputs.get("seconds")
    try:
        seconds = 1.0 if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{job.where}seconds {text!r}: give a number above 0")


def _of_list(path: Path, given: Mapping[str, str], options: GenerateOptions) -> list[Job]:
    """Return a job for each line; what a line leaves empty is taken from the options."""
    folder = _folder(options.out)
    jobs = []
    for where, line in read_list(path, COLUMNS):
        inputs = {name: value for name, value in line.items() if name in INPUTS}
        for name in PATHS:
            if name in inputs:
                inputs[name] = str(on_disk(path.parent / inputs[name]))
        out = folder / f"{line['id']}.wav"
        inputs = {**given, **inputs}
        seed = _seed(line, options.seed, where)
        jobs.append(Job(task_of(options.task, inputs), line["id"], out, inputs, seed, f"{where}: "))
    return jobs


def _seed(line: Mapping[str, str], default: int, where: str) -> int:
    text = line.get("seed", str(default))
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise UserError(f"{where}: seed {text!r}: give a whole number from 0 on")
    return int(text)


def _of_folder(name: str, given: Mapping[str, str], options: GenerateOptions) -> list[Job]:
    """Return a job for each file of a folder and of those in it; results lie as their inputs do."""
    root, folder = Path(given[name]), _folder(options.out)
    suffixes = FOLDER_SUFFIXES[name]
    below = [path.relative_to(root) for path in files_below(root)]
    shown = [path for path in below if path.suffix.lower() in suffixes]
    # A folder that gets its results, or lies around them, must not take them for inputs in the next run.
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out {folder} lies in the folder of --{name}; name one outside {root}")
    if not shown:
        raise UserError(f"{root}: no file that ends with {', '.join(sorted(suffixes))}; check the path of --{name}")
    if left := skipped_note(root, below, suffixes):
        print(f"metis-lightning: {left}", file=sys.stderr)
    return [
        Job(
            task_of(options.task, {**given, name: ""}),
            path.with_suffix("").as_posix(),
            folder / path.with_suffix(".wav"),
            {**given, name: str(root / path)},
            options.seed,
        )
        for path in shown
    ]


def _folder(out: Path) -> Path:
    if out.suffix.lower() in OUTPUT_FORMATS or out.is_file():
        raise UserError(f"--out {out}: a list or a folder has many results; give a folder")
    return out


def _stem(given: Mapping[str, str], out: Path) -> str:
    """Return what a single result is called."""
    named = next((given[name] for name in FOLDER_SUFFIXES if name in given), "speech")
    return Path(named).stem if out.is_dir() else out.stem


def _single_out(given: Mapping[str, str], out: Path) -> Path:
    """Return the file of a single result; in a folder it is called as its source."""
    if out.is_dir():
        return out / f"{_stem(given, out)}.wav"
    if out.suffix.lower() not in OUTPUT_FORMATS:
        raise UserError(f"--out {out}: end it with {' or '.join(OUTPUT_FORMATS)}, or name a folder that is there")
    return out


def _check_outputs(jobs: Sequence[Job]) -> None:
    """Check that no result overwrites an input or another result, on disks that do not tell cases apart either."""
    inputs = {path.resolve() for job in jobs for name in PATHS if (path := job.path(name)) is not None}
    for job in jobs:
        if job.out.resolve() in inputs:
            raise UserError(f"{job.where}--out {job.out} would overwrite an input; give another name")
    by_out: dict[str, Job] = {}
    folders: set[Path] = set()
    for job in jobs:
        if job.out.parent not in folders or job.out.is_dir():
            check_output(job.out, f"{job.where}--out")
            folders.add(job.out.parent)
        other = by_out.setdefault(str(job.out).casefold(), job)
        if other is not job:
            same = " and ".join(", ".join(one.inputs.values()) for one in (other, job))
            raise UserError(f"{job.where}{same} would be written to one file, {job.out}; rename one of them")
