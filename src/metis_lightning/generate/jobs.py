"""Parses what `generate` is to make, a job for each result: of the options, of a list, or of a folder.

A list is csv with a header, or jsonl: an id and named inputs in each line. All is checked before anything is loaded.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metis_lightning.data.manifest.records import check_id, parse_object
from metis_lightning.data.media.audio import OUTPUT_FORMATS
from metis_lightning.data.media.storage import files_below, skipped_note
from metis_lightning.errors import UserError, nearest
from metis_lightning.files import check_output, printable
from metis_lightning.generate.options import GenerateOptions
from metis_lightning.options import flag
from metis_lightning.sampling.voice import Voice, names_voice
from metis_lightning.task_table import TASKS, task_named
from metis_lightning.texts import clean_text, on_disk, read_lines

PATHS = ("source", "prompt", "video", "features")
TEXTS = ("text", "prompt_text", "language", "prompt_language")
INPUTS = (*PATHS, *TEXTS, "seconds")
JOB_COLUMNS = ("id", *INPUTS, "seed")

_AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff"}
_VIDEO = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg"}
# Which files of a folder are meant, by the option that names it.
FOLDER_SUFFIXES: Mapping[str, set[str]] = {"source": _AUDIO, "video": _VIDEO, "features": {".npy", ".safetensors"}}


@dataclass(frozen=True)
class Job:
    """A result that is to be made: the file `out`, of `inputs` by name, as text.

    task: of `task_table.TASKS`, or one of your own.
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

    def label(self, name: str) -> str:
        """Return what the user knows an input by."""
        return self.labels.get(name) or f"{name.replace('_', ' ')} ({flag(name)})"

    def path(self, name: str) -> Path | None:
        """Return the file that an input names; None if it is not given."""
        return Path(self.inputs[name]) if name in self.inputs else None

    def text(self, name: str) -> str:
        """Return a text as every reader cleans it; empty if it is not given."""
        return clean_text(self.inputs.get(name, ""))

    @property
    def has_voice(self) -> bool:
        """Whether the prompt is a voice, encoded already."""
        return names_voice(self.inputs.get("prompt", ""))

    @property
    def sounds(self) -> list[Path]:
        """The audio files among the inputs."""
        names = ("source",) if self.has_voice else ("source", "prompt")
        return [path for name in names if (path := self.path(name)) is not None]

    @property
    def languages(self) -> tuple[str, str]:
        """Languages of the text and of the prompt's text, without their regions (ISO 639-1)."""
        text = (self.text("language") or "en").split("-")[0].lower()
        prompt_text = (self.text("prompt_language") or text).split("-")[0].lower()
        return text, prompt_text

    @property
    def seconds(self) -> float | None:
        """Return the wanted length of a text's speech; None if it is not given."""
        return float(self.inputs["seconds"]) if "seconds" in self.inputs else None


def jobs_of(options: GenerateOptions) -> list[Job]:
    """Return the jobs of the options, in order. A `UserError` if an input or an output cannot be used."""
    inputs = {name: str(value) for name in INPUTS if (value := getattr(options, name)) not in (None, "")}
    if options.voice is not None:
        if "prompt" in inputs or not names_voice(options.voice):
            raise UserError(f"--voice {options.voice}: give a .safetensors file, and no --prompt beside it")
        inputs["prompt"] = str(options.voice)
    if options.save_voice is not None and (options.prompt is None or not names_voice(options.save_voice)):
        raise UserError(f"--save-voice {options.save_voice}: give a .safetensors file, and a --prompt to write there")
    inputs = _with_voice_text(inputs)
    folder, out = folder_input(options), options.out
    if options.list is not None and folder is not None:
        raise UserError(f"--list and a folder as --{folder}: give one of the two")
    is_single = options.list is None and folder is None
    if not is_single and (out.suffix.lower() in OUTPUT_FORMATS or out.is_file()):
        raise UserError(f"--out {out}: a list or a folder has many results; give a folder")
    if options.list is not None:
        jobs = _jobs_of_list(options.list, inputs, options)
    elif folder is not None:
        jobs = _jobs_of_folder(folder, inputs, options)
    else:
        jobs = [_single_job(inputs, options)]
    for job in jobs:
        check_job(job)
    _check_outputs(jobs)
    return jobs


def _with_voice_text(inputs: dict[str, str]) -> dict[str, str]:
    """Return inputs with what a voice says, if a text is to be spoken in it and nothing else is said of it."""
    path = inputs.get("prompt", "")
    if "text" not in inputs or "prompt_text" in inputs or not names_voice(path) or not os.path.isfile(path):
        return inputs
    voice = Voice.load(path)
    said = {"prompt_text": voice.text, "prompt_language": voice.language} if voice.text else {}
    return {**said, **inputs}


def folder_input(options: GenerateOptions) -> str | None:
    """Return the name of the input that is a folder; None if each is a file."""
    paths = ((name, getattr(options, name)) for name in FOLDER_SUFFIXES)
    return next((name for name, path in paths if path is not None and os.path.isdir(path)), None)


def task_of(task: str, inputs: Mapping[str, str]) -> str:
    """Return the task; of Omni's, the one that the inputs are for. Voice conversion cannot be told from extraction."""
    if not task_named(task).covers:
        return task
    if "source" not in inputs:
        return "tts"
    return "tse" if "prompt" in inputs else "se"


def check_job(job: Job) -> None:
    """Check that the task's inputs are given and are files. A `UserError` if not."""
    task = task_named(job.task)
    if unknown := sorted(set(job.inputs) - task.inputs):
        names = ", ".join(sorted(task.inputs))
        raise UserError(f"{job.where}the task {task.name} takes no {' and no '.join(unknown)}; it takes {names}")
    for alternatives in task.needs:
        if not any(name in job.inputs for name in alternatives):
            # A task of one's own may have any name, also one that is near to a task's.
            hint = "" if task.name in TASKS else nearest(task.name, TASKS)
            needed = " or ".join(map(job.label, alternatives))
            raise UserError(f"{job.where}the task {task.name} needs a {needed}{hint}")
    if ("text" in job.inputs) != ("prompt_text" in job.inputs) and "prompt" in job.inputs:
        missing = "prompt_text" if "text" in job.inputs else "text"
        raise UserError(f"{job.where}texts of prompt and result go together: the {job.label(missing)} is missing")
    _check_values(job)


def _check_values(job: Job) -> None:
    for name in TEXTS:
        if printable(text := job.inputs.get(name, "")) != text:
            cure = "write it anew, or in a list saved as UTF-8"
            raise UserError(f"{job.where}the {job.label(name)} is not UTF-8; {cure}")
    for name in PATHS:
        if (path := job.path(name)) is not None and not os.path.isfile(path):
            raise UserError(f"{job.where}{path}: no such file; check the path of the {job.label(name)}")
    try:
        seconds = job.seconds
    except ValueError:
        seconds = math.nan
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"{job.where}seconds {job.inputs['seconds']!r}: give a number above 0")


def _single_job(inputs: Mapping[str, str], options: GenerateOptions) -> Job:
    """Return the job of a single result; in a folder it is called as its source."""
    job, out = Job(task_of(options.task, inputs), "", options.out, inputs, options.seed), options.out
    # First of all: a folder of inputs that is not there looks like a single input.
    check_job(job)
    if out.is_dir():
        stem = Path(next((inputs[name] for name in FOLDER_SUFFIXES if name in inputs), "speech")).stem
        return replace(job, id=stem, out=out / f"{stem}.wav")
    if out.suffix.lower() not in OUTPUT_FORMATS:
        raise UserError(f"--out {out}: end it with {' or '.join(OUTPUT_FORMATS)}, or name a folder that is there")
    return replace(job, id=out.stem)


def _jobs_of_list(path: Path, defaults: Mapping[str, str], options: GenerateOptions) -> list[Job]:
    """Return a job for each line; what a line leaves empty is taken from the options."""
    jobs = []
    for where, line in read_list(path, JOB_COLUMNS):
        inputs = {name: value for name, value in line.items() if name in INPUTS}
        for name in inputs.keys() & set(PATHS):
            inputs[name] = str(on_disk(path.parent / inputs[name]))
        inputs = _with_voice_text({**defaults, **inputs})
        seed = line.get("seed", str(options.seed))
        if not (seed.isascii() and seed.isdigit() and int(seed) < 2**63):
            raise UserError(f"{where}: seed {seed!r}: give a whole number from 0 on")
        out, task = options.out / f"{line['id']}.wav", task_of(options.task, inputs)
        jobs.append(Job(task, line["id"], out, inputs, int(seed), f"{where}: "))
    return jobs


def _jobs_of_folder(name: str, inputs: Mapping[str, str], options: GenerateOptions) -> list[Job]:
    """Return a job for each file of a folder and of those in it; results lie as their inputs do."""
    root, folder, suffixes = Path(inputs[name]), options.out, FOLDER_SUFFIXES[name]
    below = [path.relative_to(root) for path in files_below(root)]
    usable = [path for path in below if path.suffix.lower() in suffixes]
    # A folder that gets its results, or lies around them, must not take them for inputs in the next run.
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out {folder} lies in the folder of --{name}; name one outside {root}")
    if not usable:
        raise UserError(f"{root}: no file that ends with {', '.join(sorted(suffixes))}; check the path of --{name}")
    if left := skipped_note(root, below, suffixes):
        print(f"metis-lightning: {left}", file=sys.stderr)
    task = task_of(options.task, inputs)
    jobs = []
    for path in usable:
        of_path, out = {**inputs, name: str(root / path)}, folder / path.with_suffix(".wav")
        jobs.append(Job(task, path.with_suffix("").as_posix(), out, of_path, options.seed))
    return jobs


def _check_outputs(jobs: Sequence[Job]) -> None:
    """Check that no result overwrites an input or another result, on disks that do not tell cases apart either."""
    inputs = {path.resolve() for job in jobs for name in PATHS if (path := job.path(name)) is not None}
    for job in jobs:
        if job.out.resolve() in inputs:
            raise UserError(f"{job.where}--out {job.out} would overwrite an input; give another name")
    by_out, folders = dict[str, Job](), set[Path]()
    for job in jobs:
        if job.out.parent not in folders or job.out.is_dir():
            check_output(job.out, f"{job.where}--out")
            folders.add(job.out.parent)
        other = by_out.setdefault(str(job.out).casefold(), job)
        if other is not job:
            same = " and ".join(", ".join(one.inputs.values()) for one in (other, job))
            raise UserError(f"{job.where}{same} would be written to one file, {job.out}; rename one of them")


def read_list(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return ("file:line", values that are not empty, by column) of each line. A `UserError` names a faulty line."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such list; give a .csv or a .jsonl")
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: a list ends with .csv or .jsonl")
    places, lines = dict[str, str](), []
    for where, row in _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path):
        line = _checked_row(row, columns, where)
        if (first := places.setdefault(line["id"].casefold(), where)) != where:
            raise UserError(f"{where}: id {line['id']!r} occurs already at {first}")
        lines.append((where, line))
    if not lines:
        raise UserError(f"{path}: the list is empty; give a line for each result")
    return lines


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    # Spreadsheets start their files with a byte-order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error}); save the list as UTF-8") from error


def _json_rows(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield f"{path}:{number}", parse_object(line.encode(), f"{path}:{number}")


def _checked_row(row: dict[Any, Any], columns: Sequence[str], where: str) -> dict[str, str]:
    if None in row:
        raise UserError(f"{where}: more values than columns; quote what has a comma")
    if unknown := sorted(set(row) - set(columns)):
        hint = nearest(unknown[0], columns)
        raise UserError(f"{where}: unknown column {unknown[0]!r}; the columns are {', '.join(columns)}{hint}")
    line = {}
    for name, value in row.items():
        if value in (None, ""):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
            raise UserError(f"{where}: {name} must be a text or a number, found {value!r}")
        line[name] = str(value).strip()
    check_id(line.get("id", ""), "id", where)
    return line
