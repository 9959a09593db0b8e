"""From a Lightning checkpoint to parts of a bundle.

python -m metis_lightning.weights.export runs/pretrain/checkpoints/last.ckpt assets/nano
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.weights.bundle import Part, bundle_folder, read_part, write_part


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, loaded as plain data: it cannot run code.

    Raises:
        UserError: if the file is missing, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"checkpoint {path}: not a checkpoint of plain tensors ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: it has no 'state_dict'")
    return checkpoint


def checkpoint_parts(path: Path) -> Mapping[str, Part]:
    """Return the parts of a bundle that a checkpoint holds.

    Raises:
        UserError: if it holds none.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint.get("bundle_parts")
    if not described:
        raise UserError(f"checkpoint {path}: it names no parts of a bundle; it was not made by this package")
    state = checkpoint["state_dict"]
    return {
        name: Part(
            config=part["config"],
            tensors={
                key.removeprefix(part["prefix"]): value
                for key, value in state.items()
                if key.startswith(part["prefix"])
            },
        )
        for name, part in described.items()
    }


def bundle_or_checkpoint_part(source: str, name: str) -> Part:
    """Return a part of a bundle, or of a checkpoint file (`.ckpt`).

    Raises:
        UserError: if there is no such bundle or file, or it lacks the part.
    """
    if not source.endswith(".ckpt"):
        return read_part(bundle_folder(source), name)
    parts = checkpoint_parts(Path(source))
    if name not in parts:
        raise UserError(f"checkpoint {source}: it holds no {name!r}, only {', '.join(parts)}")
    return parts[name]


def export(checkpoint: Path, bundle: Path) -> list[str]:
    """Write the parts of a checkpoint into a bundle, which is made if need be; return their names."""
    parts = checkpoint_parts(checkpoint)
    for name, part in parts.items():
        write_part(bundle, name, part)
    return list(parts)


def main() -> None:
    """Run `export` on the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Write the parts of a checkpoint into a bundle.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    print(f"{options.bundle}: wrote {', '.join(export(options.checkpoint, options.bundle))}")


if __name__ == "__main__":
    main()
