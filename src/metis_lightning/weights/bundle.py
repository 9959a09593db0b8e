"""Bundles, on disk or on the model hub: a folder with `bundle.yaml` and one safetensors file a part.

Nothing in a bundle can run code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from metis_lightning.errors import UserError, nearest
from metis_lightning.files import atomic_path, sha256_of
from metis_lightning.safe_parsing import read_yaml
from metis_lightning.state_dicts import check_finite
from metis_lightning.weights.checks import check_index, check_sizes
from metis_lightning.weights.tensor_file import INT4, TensorFile, from_rows, in_groups, in_rows

ASSETS = Path(__file__).resolve().parents[1] / "assets"
BUNDLE_INDEX = "bundle.yaml"
_DIGEST = "sha256"
_ORIGIN = ("licence", "source")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
# Data alone: nothing that could be imported or unpickled is fetched with a bundle.
BUNDLE_FILES = (BUNDLE_INDEX, "*.safetensors", "LICENSES.md", "README.md")


@dataclass(frozen=True)
class Part:
    """One trained piece: a plain configuration, and weights, in float32 if they were read from a bundle."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    sha256: str = ""  # of the file that it came from
    origin: Mapping[str, Any] = field(default_factory=dict)  # licence and source of an imported part


def bundle_folder(name: str) -> Path:
    """Return the folder of a bundle that ships with the package (`nano`, `paper`), is on the disk, or on the model hub.

    From the hub, `owner/name` or `owner/name@revision`, it is downloaded once. A `UserError` if there is none.
    """
    for folder in (ASSETS / name, Path(name)):
        if (folder / BUNDLE_INDEX).is_file():
            return folder
    if Path(name).is_file():
        raise UserError(f"{name}: a file, not a bundle; give a bundle's folder, or a checkpoint that ends in .ckpt")
    if Path(name).is_dir():
        is_published = any(Path(name).glob("*/*.safetensors")) or any(Path(name).glob("*/*/*.safetensors"))
        command = f"if it holds the published files, run: python -m metis_lightning import {name} --out my_bundle"
        advice = command if is_published else "give 'nano' or the path of a bundle"
        raise UserError(f"bundle {name!r}: the folder has no {BUNDLE_INDEX}; {advice}")
    if is_hub_name(name):
        return _hub_bundle(name)
    hint = nearest(name, (path.name for path in ASSETS.iterdir() if (path / BUNDLE_INDEX).is_file()))
    raise UserError(f"bundle {name!r}: no such folder with a {BUNDLE_INDEX}; give 'nano' or the path of a bundle{hint}")


def licence_note(folder: Path) -> str:
    """Return whose licences the parts of a bundle name, for the one who uses them; empty if they name none."""
    named: dict[str, list[str]] = {}
    for part, entry in read_index(folder)["parts"].items():
        if "licence" in entry:
            named.setdefault(str(entry["licence"]), []).append(part)
    note = "; ".join(f"{licence} ({', '.join(parts)})" for licence, parts in named.items())
    # The released weights of Metis and MaskGCT.
    return note + (": not for commercial use" if any("NC" in licence for licence in named) else "")


def read_index(folder: Path) -> dict[str, Any]:
    """Return the content of `bundle.yaml`; an absent file is an empty bundle."""
    path = folder / BUNDLE_INDEX
    if not path.exists():
        return {"format": 1, "parts": {}}
    index = read_yaml(path, aliases=False)
    check_index(index, path)
    has_weights = any("sha256" in part for part in index["parts"].values())
    # An index of sizes alone is written by hand, and has no digest.
    if (index.get(_DIGEST) or has_weights) and index.get(_DIGEST) != _digest(index):
        raise UserError(f"{path}: it was changed after it was written (SHA-256); copy the bundle again")
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write `bundle.yaml`, with a digest of all that it says."""
    content = {key: value for key, value in index.items() if key != _DIGEST}
    with atomic_path(folder / BUNDLE_INDEX) as temporary:
        temporary.write_text(yaml.safe_dump({**content, _DIGEST: _digest(content)}, sort_keys=False), encoding="utf-8")


def _digest(index: Mapping[str, Any]) -> str:
    content = {key: value for key, value in index.items() if key != _DIGEST}
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def read_part(folder: Path, name: str) -> Part:
    """Return a part of a bundle after checking its SHA-256; without tensors if the index gives its sizes only.

    A `UserError` if the bundle lacks the part or its weights, or the file is missing or not what the index names.
    """
    entry, what = read_index(folder)["parts"].get(name), f"bundle {folder}, part {name!r}"
    if entry is None:
        raise UserError(f"bundle {folder}: it has no part {name!r}")
    if "sha256" not in entry:
        # Enough for models on the meta device, which have no weights either.
        if not nn.Linear(1, 1).weight.is_meta:
            advice = "name a bundle that has them"
            raise UserError(f"bundle {folder}: it gives sizes only, no weights of {name!r}; {advice}")
        check_sizes(entry["config"], None, what)
        return Part(config=entry["config"], tensors={})
    path = folder / part_file(name)
    if not path.is_file():
        raise UserError(f"bundle {folder}: {path.name} is missing")
    digest, noted = sha256_of(path), entry["sha256"]
    if digest != noted:
        raise UserError(f"{path}: its SHA-256 is {digest}, the index says {noted}; the file was changed, copy it again")
    file = TensorFile(path)
    # Before any tensor is read.
    check_sizes(entry["config"], len(file.shapes), what)
    tensors = from_rows({key: file.tensor(key) for key in file.shapes})
    check_finite(tensors, str(path))
    origin = {key: entry[key] for key in _ORIGIN if key in entry}
    return Part(config=entry["config"], tensors=tensors, sha256=digest, origin=origin)


def write_part(folder: Path, name: str, part: Part, dtype: torch.dtype | None = torch.bfloat16) -> None:
    """Add a part to a bundle, or replace it; weights are stored in `dtype`, None for their own.

    Of int8 are the rows of matrices and convolutions, each with a scale of its own, of int4 groups of a matrix's rows;
    the rest is in bfloat16.
    """
    path = folder / part_file(name)
    tensors = {key: value.detach() for key, value in part.tensors.items()}
    if dtype in (torch.int8, INT4):
        tensors, dtype = (in_rows if dtype == torch.int8 else in_groups)(tensors), torch.bfloat16
    stored, types = retype(tensors, dtype)
    check_finite({**part.tensors, **stored}, f"{path} is not written")
    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in stored.items()}, temporary)
    index = read_index(folder)
    index["parts"][name] = {
        "config": dict(part.config),
        "sha256": sha256_of(path),
        "parameters": sum(value.numel() for value in part.tensors.values()),
        "dtype": types,
        **{key: part.origin[key] for key in _ORIGIN if key in part.origin},
    }
    write_index(folder, index)


def retype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], str]:
    """Return tensors with weights in `dtype`, None for their own, and their types as an index notes them."""
    # What counts steps or batches stays as it is: bfloat16 has whole numbers up to 256 only.
    stored = {
        name: value if dtype is None or not value.is_floating_point() else value.to(dtype)
        for name, value in tensors.items()
    }
    return stored, ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in stored.values()}))


def part_file(part: str) -> str:
    """Return the name of a part's file. A `UserError` if it could lead out of the folder, as "../x" does."""
    if not part.replace("_", "").isalnum():
        raise UserError(f"part name {part!r}: only letters, digits and '_' are allowed")
    return f"{part}.safetensors"


def is_hub_name(name: str) -> bool:
    """Return whether a name is of the form `owner/name` or `owner/name@revision`.

    >>> is_hub_name("amphion/metis"), is_hub_name("amphion/metis@4f2c"), is_hub_name("runs/a/b"), is_hub_name("nano")
    (True, True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None


def _hub_bundle(name: str) -> Path:
    """Return the local folder of a bundle on the hub, downloaded if need be; what an interruption left is kept."""
    repository, _, revision = name.partition("@")
    folder = snapshot(repository, (BUNDLE_INDEX,), revision or None)
    if not (folder / BUNDLE_INDEX).is_file():
        raise UserError(
            f"{repository} on the model hub has no {BUNDLE_INDEX}, so it is no bundle; if it holds the published "
            "files, run: python -m metis_lightning import hub --out my_bundle"
        )
    # The commit is the folder's name: both downloads are of one.
    return snapshot(repository, BUNDLE_FILES, folder.name)


def snapshot(repository: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Return the local folder, called by its commit, with files of a repository (`owner/name`) on the hub.

    Of `files`, names or patterns, those that it does not have are left out. `revision` is a commit, tag or branch, None
    the newest. A `UserError` if there is no such repository or revision, or it cannot be reached.
    """
    # The client that huggingface_hub brings; its errors are not wrapped.
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    what = f"{repository}, which is no folder here, on the model hub"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except GatedRepoError as error:
        advice = "its owner asks for a log-in; accept the terms there, then run: hf auth login"
        raise UserError(f"{what}: {advice}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{what}: no such repository; give the folder of a bundle, or 'owner/name'") from error
    except LocalEntryNotFoundError as error:
        advice = "is HF_HUB_OFFLINE=1 set? (HF_HUB_OFFLINE=0 lets commands download)"
        raise UserError(f"{what}: not downloaded yet, and the hub is not to be reached; {advice}") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what}: {reason}; run the command again, a download goes on where it stopped") from error
