"""Published files to a bundle: part by part, each under its final name when it is whole, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, sha256_of
from metis_lightning.weights.bundle import INDEX, Part, dtype_names, part_file, read_index, stored_dtype, write_part
from metis_lightning.weights.inspected import Inspected
from metis_lightning.weights.layout import PARTS, Repository

LICENCES = "LICENSES.md"

DTYPES: Mapping[str, torch.dtype | None] = {
    "published": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""How weights can be stored; all are computed in float32."""


@dataclass(frozen=True)
class Written:
    """A part that is in the bundle, and whether it was there before."""

    name: str
    entry: Mapping[str, Any]
    kept: bool


def write_bundle(parts: Sequence[Inspected], out: Path, dtype: torch.dtype | None = None) -> Iterator[Written]:
    """Write parts into a bundle, one at a time; those that are there from the same files are kept.

    A new bundle grows beside its place, as `NAME.incomplete`, and is renamed when it is whole.

    Args:
        parts: the base before the LoRAs that belong to it.
        out: the bundle's folder; one that is a bundle already is added to.
        dtype: how tensors are stored; None for their own.

    Raises:
        UserError: if there is something else at its place, or a download is not what the hub says.
    """
    folder = out if (out / INDEX).is_file() else out.with_name(f"{out.name}.incomplete")
    if folder != out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something else; name a new folder, or a bundle to add to")
    for part in parts:
        yield _written(part, folder, dtype)
    with atomic_path(folder / LICENCES) as temporary:
        temporary.write_text(licence_text(read_index(folder)), encoding="utf-8")
    if folder != out:
        folder.rename(out)


def _written(part: Inspected, folder: Path, dtype: torch.dtype | None) -> Written:
    """Write a part, unless the folder has it of the same files."""
    name = part.located.part.name
    config = dict(part.config)
    if part.located.part.task is not None:
        # What is fine-tuned in full stands alone.
        config["base_sha256"] = read_index(folder)["parts"]["stage1"]["sha256"] if config["lora_rank"] else ""
    stored = dtype_names(value.to(stored_dtype(value, dtype)) for value in part.shapes.values())
    expected = {"config": config, "dtype": stored, **_origin(part)}
    entry = read_index(folder)["parts"].get(name, {})
    path = folder / part_file(name)
    same = all(entry.get(key) == value for key, value in expected.items())
    if same and path.is_file() and sha256_of(path) == entry["sha256"]:
        return Written(name, entry, kept=True)
    # What a killed run left of this part.
    for left in folder.glob(f".{path.stem}.*{path.suffix}"):
        left.unlink()
    write_part(folder, name, Part(config, part.load(), origin=_origin(part)), dtype)
    return Written(name, read_index(folder)["parts"][name], kept=False)


def _origin(part: Inspected) -> dict[str, Any]:
    """Return what the index says of a part's source: repository, commit, SHA-256 of each file, and the licence."""
    located = part.located
    repository = located.part.repository
    source: dict[str, Any] = {"repository": repository.name or "Amphion's source"}
    if located.commit is not None:
        source["commit"] = located.commit
    source["files"] = {path.name: _checked_sha256(path) for path in located.files}
    if part.left_out:
        source["left_out"] = list(part.left_out)
    return {"licence": repository.licence, "source": source}


def _checked_sha256(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        UserError: if the download cache says that it should be another.
    """
    digest = sha256_of(path)
    # The cache of huggingface_hub links to large files by the SHA-256 that the hub has of them.
    expected = path.readlink().name if path.is_symlink() else digest
    if len(expected) == len(digest) and expected != digest:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, the hub says {expected}; delete what it links to and run again"
        )
    return digest


def licence_text(index: Mapping[str, Any]) -> str:
    """Return the licences of a bundle's parts as Markdown."""
    lines = [
        "# Licences of these weights",
        "",
        "| part | from | licence |",
        "|---|---|---|",
    ]
    for name, entry in index["parts"].items():
        if name not in PARTS or "source" not in entry:
            lines.append(f"| {name} | trained or exported by the owner of this bundle | theirs |")
            continue
        repository = PARTS[name].repository
        lines.append(f"| {name} | {_link(repository)} | [{repository.licence}]({repository.licence_url}) |")
    lines += [
        "",
        "`bundle.yaml` has the commit and the SHA-256 of each file. Who passes the weights on passes this on.",
    ]
    return "\n".join(lines) + "\n"


def _link(repository: Repository) -> str:
    if not repository.name:
        return "[Amphion](https://github.com/open-mmlab/Amphion)"
    return f"[{repository.name}](https://huggingface.co/{repository.name})"
