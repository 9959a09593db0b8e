"""`new`: a manifest and a config for somebody's own recordings, checked, and the commands that come next."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from metis_lightning.doctor.main import DoctorOptions
from metis_lightning.errors import UserError
from metis_lightning.options import PROGRAM, CommandOptions, flag, option

_TRAINED = ("se", "tse", "vc", "tts")
CONSENT = (
    "voices: train on and imitate only voices whose owners agreed, and say that speech is generated where it is heard"
)


@dataclass(frozen=True, kw_only=True)
class NewOptions(CommandOptions):
    """Options of `new`; at a terminal it asks for the first two where they are missing."""

    task: Literal["se", "tse", "vc", "tts"] | None = option("what is to be trained", None)
    speech: Path | None = option(
        "folder of your recordings: wav, flac, mp3, ogg, opus, at any depth", None, metavar="DIR"
    )
    noise: Path | None = option("se: folder of noises, wav or flac (default: made noise)", None, metavar="DIR")
    rooms: Path | None = option("se: folder of room responses, wav or flac (default: made rooms)", None, metavar="DIR")
    speakers: Literal["folder", "name", "one"] = option(
        "whose a file is: of the first folder, of its name up to _ or -, or all of one", "folder"
    )
    language: str = option("of the texts, which stand beside the files (a.txt) or in metadata.csv", "en", metavar="L")
    out: Path | None = option("folder of manifest and config (default: my_TASK)", None, metavar="DIR")
    max_faults: float = option("largest share of faulty files to leave out", 0.0, metavar="SHARE", least=0, most=1)


def run_new(options: NewOptions) -> None:
    """Run `new`. A `UserError` if the folders hold nothing to train on, or the config would not run."""
    options = _asked(options)
    task, speech, out = options.task, options.speech, options.out
    assert task is not None and speech is not None and out is not None
    from metis_lightning.data.corpora.folder import FolderScan
    from metis_lightning.data.manifest.build import BuildOptions, build_manifest
    from metis_lightning.doctor.run import run_findings
    from metis_lightning.files import check_output

    for folder, name in ((options.noise, "--noise"), (options.rooms, "--rooms")):
        if folder is not None and task != "se":
            raise UserError(f"{name} is for --task se; leave it out")
    check_output(out, "--out", is_folder=True)
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "speech.jsonl"
    scan = FolderScan(str(speech), options.speakers, options.language)
    built = build_manifest(scan, BuildOptions(manifest, max_faults=options.max_faults))
    assert built is not None
    print(f"{manifest}: {built.utterances:,} recordings, {built.hours:.2f} h, {built.speakers:,} speakers")
    config = out / "config.yaml"
    _write_config(config, manifest, options)
    print(f"{config}: laid over the package's {task}_lora")
    configs = ["-c", f"{task}_lora", "-c", str(config)]
    faults = []
    for finding in run_findings(DoctorOptions(no_steps=True), configs):
        if finding.status == "fault":
            faults.append(finding)
        elif finding.status == "note" and finding.check == "data":
            print(f"note: {finding.text}{'; ' if finding.cure else ''}{finding.cure}")
    if faults:
        first = faults[0]
        raise UserError(f"{config} is written, and would not run: {first.text}; {first.cure}")
    example, voice = (shlex.quote(str(scan.files[at])) for at in (0, -1))
    inputs = f"--text 'What is to be said.' --prompt-text 'What it says.' --prompt {example}"
    inputs = inputs if task == "tts" else f"--source {example}" + ("" if task == "se" else f" --prompt {voice}")
    weights = f"runs/{out.name}/checkpoints/last.ckpt"
    print(*([CONSENT] if task in ("vc", "tts") else []), "next:", sep="\n")
    print(f"  {PROGRAM} doctor {' '.join(configs)}")
    print(f"  {PROGRAM} fit {' '.join(configs)}")
    print(f"  {PROGRAM} generate --task {task} {inputs} --out made.wav --model {weights}")


def _asked(options: NewOptions) -> NewOptions:
    """Return the options with what a terminal's user answered. A `UserError` if nobody can be asked, or answers."""
    questions = {"task": f"task ({', '.join(_TRAINED)})", "speech": "folder of your recordings"}
    for name, question in questions.items():
        if getattr(options, name) is not None:
            continue
        if not sys.stdin.isatty():
            raise UserError(f"required: {flag(name)}, the {question} (see: {PROGRAM} new --help)")
        answer = input(f"{question}: ").strip()
        if not answer or (name == "task" and answer not in _TRAINED):
            raise UserError(f"{question}: {answer!r} is none; run `new` again")
        changes: dict[str, Any] = {name: answer if name == "task" else Path(answer)}
        options = replace(options, **changes)
    if options.task == "se" and options.noise is None and sys.stdin.isatty() and options.out is None:
        answer = input("folder of noises (empty: made noise): ").strip()
        options = replace(options, noise=Path(answer) if answer else None)
    return replace(options, out=options.out or Path(f"my_{options.task}"))


def _write_config(path: Path, manifest: Path, options: NewOptions) -> None:
    """Write what differs from the package's config of the task."""
    from metis_lightning.files import atomic_path
    from metis_lightning.safe_parsing import dump_yaml

    arguments: dict[str, Any] = {"manifest": str(manifest), "root": str(options.speech), "max_seconds": 30.0}
    folders = {"noise_root": options.noise, "rir_root": options.rooms}
    if named := {name: str(folder) for name, folder in folders.items() if folder is not None}:
        arguments["recipe"] = {"init_args": named}
    module = "metis_lightning.data.batches.module.PreparedDataModule"
    content = {
        "data": {"class_path": module, "init_args": arguments},
        "trainer": {"logger": {"init_args": {"name": path.parent.name}}},
    }
    head = f"# Your own recordings.\n#   {PROGRAM} fit -c {options.task}_lora -c {path}\n"
    with atomic_path(path) as temporary:
        temporary.write_text(head + dump_yaml(content), encoding="utf-8")
