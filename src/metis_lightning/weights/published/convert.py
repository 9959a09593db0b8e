"""Published files to a bundle: part by part, each under its final name when it is whole, resumable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import LOCK, atomic_path, check_output, locked, sha256_of
from metis_lightning.weights.bundle import BUNDLE_INDEX, Part, bundle_folder, part_file, read_index, retype, write_part
from metis_lightning.weights.published.inspect import FittingPart, inspect
from metis_lightning.weights.published.layout import FINE_TUNED, PARTS
from metis_lightning.weights.published.locate import ImportRequest, locate
from metis_lightning.weights.published.options import ImportOptions

LICENCES = "LICENSES.md"

# How weights can be stored, their own way or another; all are computed in float32.
DTYPES = {"published": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def run_import(options: ImportOptions) -> None:
    """Run `import`. A `UserError` names all files that are missing or do not fit; then nothing was written."""
    files, revisions = _pairs("--file", options.file), _pairs("--revision", options.revision)
    request = ImportRequest(
        options.source,
        tuple(options.tasks or ()),
        {part: [Path(path) for path in paths] for part, paths in files.items()},
        {repository: commits[-1] for repository, commits in revisions.items()},
    )
    check_output(options.out, is_folder=True)
    # Not in the bundle, which is renamed when it is whole.
    with locked(options.out.parent, f".{options.out.name}{LOCK}", what=options.out):
        located = locate(request)
        names = {each.part.name for each in located}
        if absent := [part.name for part in FINE_TUNED if not request.names and part.name not in names]:
            print(f"not there, so left out: {', '.join(absent)}")
        licences: Mapping[str, list[str]] = defaultdict(list)
        for each in located:
            licences[f"{each.part.repository.licence} ({each.part.repository.licence_url})"].append(each.part.name)
        for licence, covered in licences.items():
            print(f"licence of {', '.join(covered)}: {licence}")
        sizes = {name: read_index(bundle_folder(name))["parts"] for name in ("paper", options.sizes)}
        parts = inspect(located, {**sizes["paper"], **sizes[options.sizes]}, options.ignore)
        write_bundle(parts, options.out, DTYPES[options.dtype])
    tasks = ", ".join(each.part.name for each in located if each.part.task is not None)
    print(f"{options.out}: a bundle for {tasks or 'fine-tuning'}")


def _pairs(option: str, values: Sequence[str]) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = defaultdict(list)
    for value in values:
        name, sign, rest = value.partition("=")
        if not (name and sign and rest):
            raise UserError(f"{option} {value}: give NAME=VALUE")
        pairs[name].append(rest)
    return dict(pairs)


def write_bundle(parts: Sequence[FittingPart], out: Path, dtype: torch.dtype | None = None) -> None:
    """Write parts into a bundle and print each; those that are there from the same files are left as they are.

    A bundle at `out` is added to; a new one grows beside its place, as `NAME.incomplete`, and is renamed when it is
    whole. A `UserError` if there is something else. Tensors are stored in `dtype`, None for their own.
    """
    folder = out if (out / BUNDLE_INDEX).is_file() else out.with_name(f"{out.name}.incomplete")
    if folder != out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something else; name a new folder, or a bundle to add to")
    for number, part in enumerate(parts, start=1):
        entry, was_there = _write(part, folder, dtype)
        what = f"{part.located.part.name}: {entry['parameters'] / 1e6:.2f} M parameters, {entry['dtype']}"
        print(f"[{number}/{len(parts)}] {what}{', was there' if was_there else ''}", flush=True)
        if left_out := entry["source"].get("left_out"):
            print(f"    left out: {len(left_out)} tensors, listed in bundle.yaml")
    with atomic_path(folder / LICENCES) as temporary:
        temporary.write_text(licence_text(read_index(folder)), encoding="utf-8")
    if folder != out:
        folder.rename(out)


def _write(part: FittingPart, folder: Path, dtype: torch.dtype | None) -> tuple[Mapping[str, Any], bool]:
    """Write a part, unless the folder has it of the same files; return its entry, and whether it was there."""
    name, parts = part.located.part.name, read_index(folder)["parts"]
    config, repository = dict(part.config), part.located.part.repository
    source: dict[str, Any] = {"repository": repository.name or "Amphion's source"}
    if part.located.commit is not None:
        source["commit"] = part.located.commit
    source["files"] = {path.name: _checked_sha256(path) for path in part.located.files}
    if part.left_out:
        source["left_out"] = list(part.left_out)
    origin = {"licence": repository.licence, "source": source}
    if part.located.part.task is not None:
        # What is fine-tuned in full stands alone.
        config["base_sha256"] = parts["stage1"]["sha256"] if config["lora_rank"] else ""
    expected = {"config": config, "dtype": retype(part.shapes, dtype)[1], **origin}
    entry, path = parts.get(name, {}), folder / part_file(name)
    is_same = all(entry.get(key) == value for key, value in expected.items())
    if is_same and path.is_file() and sha256_of(path) == entry["sha256"]:
        return entry, True
    # What a killed run left of this part.
    for left in folder.glob(f".{path.stem}.*{path.suffix}"):
        left.unlink()
    write_part(folder, name, Part(config, part.load(), origin=origin), dtype)
    return read_index(folder)["parts"][name], False


def _checked_sha256(path: Path) -> str:
    """Return a file's SHA-256; a `UserError` if the download cache says that it should be another."""
    digest = sha256_of(path)
    # The cache of huggingface_hub links to large files by the SHA-256 that the hub has of them.
    expected = path.readlink().name if path.is_symlink() else digest
    if len(expected) == len(digest) and expected != digest:
        advice = "delete what it links to and run again"
        raise UserError(f"{path}: its SHA-256 is {digest}, the hub says {expected}; {advice}")
    return digest


def licence_text(index: Mapping[str, Any]) -> str:
    """Return the licences of a bundle's parts as Markdown."""
    lines = ["# Licences of these weights", "", "| part | from | licence |", "|---|---|---|"]
    for name, entry in index["parts"].items():
        if name not in PARTS or "source" not in entry:
            lines.append(f"| {name} | trained or exported by the owner of this bundle | theirs |")
            continue
        repository = PARTS[name].repository
        link = f"[{repository.name}](https://huggingface.co/{repository.name})"
        link = link if repository.name else "[Amphion](https://github.com/open-mmlab/Amphion)"
        lines.append(f"| {name} | {link} | [{repository.licence}]({repository.licence_url}) |")
    end = "`bundle.yaml` has the commit and the SHA-256 of each file. Who passes the weights on passes this on."
    return "\n".join([*lines, "", end]) + "\n"
