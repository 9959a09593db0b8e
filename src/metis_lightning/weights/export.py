"""Parts of a bundle from a Lightning checkpoint.

python -m metis_lightning.weights.export runs/pretrain/checkpoints/last.ckpt my_bundle
python -m metis_lightning.weights.export runs/tse_lora/checkpoints/last.ckpt my_bundle --weights ema --merge --base nano
python -m metis_lightning.weights.export third.ckpt my_bundle --average first.ckpt second.ckpt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import check_output
from metis_lightning.models.lora import PUBLISHED_PREFIX, merge_lora
from metis_lightning.models.stage1 import PHONE_LAYERS
from metis_lightning.weights.build import apply_task, load_base, plain_config
from metis_lightning.weights.bundle import Part, bundle_folder, read_index, read_part, write_part
from metis_lightning.weights.checkpoint import checkpoint_parts, open_checkpoint
from metis_lightning.weights.publish import training_of, write_card


def export(
    checkpoint: Path | str,
    bundle: Path | str,
    weights: str | None = None,
    merge_with: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    names: Sequence[str] = (),
    as_base: bool = False,
    average: Sequence[Path] = (),
) -> list[str]:
    """Write the parts of a checkpoint into a bundle's folder, which is made if need be; return their names.

    `weights` are `raw`, `ema`, or None for those that the run was validated with; they are stored in `dtype`. The LoRA
    is merged, in float32, with the base in the folder `merge_with`; None leaves it apart. With `names` no other parts
    are written. `as_base` makes a stage 1 that was trained in full the bundle's base, and the task's part what the task
    put on it. With `average`, weights are the means over the checkpoint and these. A model card is written beside.

    A `UserError` if there is no such part, no LoRA to merge, no stage 1 of its own, or it does not fit.
    """
    checkpoint, bundle = Path(checkpoint), Path(bundle)
    check_output(bundle, "bundle", is_folder=True)
    parts = checkpoint_parts(checkpoint, weights)
    for number, other in enumerate(average, start=1):
        parts = _averaged(parts, checkpoint_parts(Path(other), weights), number, str(other))
    if missing := sorted(set(names) - set(parts)):
        raise UserError(f"checkpoint {checkpoint}: it holds {', '.join(parts)}, not {', '.join(missing)}")
    parts = {name: part for name, part in parts.items() if name in (names or parts)}
    what = f"checkpoint {checkpoint}"
    for name, part in parts.items():
        kind = dtype
        if as_base:
            part = _moved_base(part, name, bundle, dtype, what)
        elif merge_with is not None:
            # In bfloat16 most of a LoRA's change would be rounded away.
            part, kind = _merged(part, merge_with, what), torch.float32
        write_part(bundle, name, part, kind)
    step = open_checkpoint(checkpoint).get("global_step", 0)
    write_card(bundle, training_of(checkpoint, step, 1 + len(average)))
    return list(parts)


def _merged(part: Part, folder: Path, what: str) -> Part:
    """Return a whole stage 1: the base of a bundle with a part's LoRA added to it."""
    if not part.config.get("lora_rank"):
        raise UserError(f"{what}: it has no LoRA to merge")
    model, digest = load_base(folder)
    apply_task(model, part, digest, what)
    merge_lora(model)
    config = {**part.config, "lora_rank": 0, "stage1": plain_config(model.config)}
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    return Part(config, tensors, origin=read_part(folder, "stage1").origin)


def _moved_base(part: Part, name: str, bundle: Path, dtype: torch.dtype, what: str) -> Part:
    """Make a part's stage 1 the bundle's base; return what its task put on it."""
    if "stage1" not in part.config:
        raise UserError(f"{what}: the stage 1 of {name!r} is not its own, but its base's")
    base, added = _split(part)
    write_part(bundle, "stage1", base, dtype)
    digest = read_index(bundle)["parts"]["stage1"]["sha256"]
    return replace(added, config={**added.config, "base": bundle.resolve().name, "base_sha256": digest})


def _averaged(mean: Mapping[str, Part], other: Mapping[str, Part], count: int, what: str) -> dict[str, Part]:
    """Return the means of `count` checkpoints with another one's weights taken in, in float32."""
    result = {}
    for name, part in mean.items():
        theirs = other.get(name)
        if theirs is None or {key: t.shape for key, t in theirs.tensors.items()} != {
            key: t.shape for key, t in part.tensors.items()
        }:
            raise UserError(f"checkpoint {what}: its {name!r} is of another model; average checkpoints of one run")
        # What counts steps is not averaged.
        tensors = {
            key: (value.float() * count + theirs.tensors[key].float()) / (count + 1)
            if value.is_floating_point()
            else value
            for key, value in part.tensors.items()
        }
        result[name] = replace(part, tensors=tensors)
    return result


def _split(part: Part) -> tuple[Part, Part]:
    """Return the stage 1 of a part without what its task put on it, and that."""
    new = tuple(PUBLISHED_PREFIX + name for name in ("cond_adapter.", *PHONE_LAYERS))
    base, added = {}, {}
    for name, value in part.tensors.items():
        if name.startswith(new):
            added[name] = value
        else:
            base[name.removeprefix(PUBLISHED_PREFIX)] = value
    config = {name: value for name, value in part.config.items() if name != "stage1"}
    return Part({**part.config["stage1"], "use_phone_cond": False, "spread_phones": False}, base), Part(config, added)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `export` on the arguments of the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the parts of a checkpoint into a bundle.")
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("bundle", type=Path)
    which = "as the optimizer left them, or averaged (default: those that the run was validated with)"
    add("--weights", choices=("raw", "ema"), help=which)
    either = parser.add_mutually_exclusive_group().add_argument
    either("--merge", action="store_true", help="add the LoRA to the base: a whole stage 1, in float32")
    either("--as-base", action="store_true", help="make a stage 1 that was trained in full the bundle's base")
    add("--base", default="nano", metavar="BUNDLE", help="base to merge with (default: nano)")
    stored = "of the stored weights; int8 has a scale for each row, int4 for each 32 values of a matrix's row"
    kinds = ("float32", "bfloat16", "int8", "int4")
    add("--dtype", choices=kinds, default="bfloat16", help=f"{stored} (default: bfloat16; merged ones are in float32)")
    add("--average", nargs="+", type=Path, default=(), metavar="CKPT", help="take the mean with these checkpoints")
    add("--parts", nargs="+", default=(), metavar="PART", help="write these alone (default: all of the checkpoint)")
    options = parser.parse_args(argv)
    try:
        merge_with = bundle_folder(options.base) if options.merge else None
        dtype = getattr(torch, options.dtype)
        names = export(
            options.checkpoint,
            options.bundle,
            options.weights,
            merge_with,
            dtype,
            options.parts,
            options.as_base,
            options.average,
        )
    except UserError as error:
        print(f"metis-lightning: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.bundle}: wrote {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
