"""What `bundle.yaml` may say: fields of their types, and sizes that the weights beside it bear out.

A bundle comes from a stranger. A model of a hundred million layers would be built for hours before its weights turn out
not to fit, so sizes are compared with the header of the file of weights first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from metis_lightning.errors import UserError

LARGEST = 1_000_000
"""No width, rate or codebook of a model is larger."""

MOST_LAYERS = 1_000
"""What a list holds at most, and of how many equal parts a model is where no file of weights tells."""

_FIELDS: Mapping[str, type | tuple[type, ...]] = {"sha256": str, "parameters": int, "dtype": str}
_SETTINGS: Mapping[str, type | tuple[type, ...]] = {
    "adapter": (str, NoneType),
    "answers": list,
    "base_sha256": str,
    "cond_dim": int,
    "kind": str,
    "lora_rank": int,
    "stage1": dict,
    "text": (str, NoneType),
}
_LONGEST_SHOWN = 30
# Fields that name how many tensors of a kind there are.
_COUNTS = ("num_layers", "num_hidden_layers", "num_quantizers")


def check_index(index: object, path: Path) -> None:
    """Check that an index has the form of a bundle's.

    Raises:
        UserError: naming the file and the field, if it has not.
    """
    if not isinstance(index, dict) or not isinstance(index.get("parts"), dict):
        raise UserError(f"{path}: not a bundle index (it has no 'parts')")
    for name, part in index["parts"].items():
        where = f"{path}: part {name!r}"
        if not isinstance(name, str) or not isinstance(part, dict):
            raise UserError(f"{where}: expected a name, and settings below it; copy the bundle again")
        if not isinstance(part.get("config"), dict):
            raise UserError(f"{where}: it has no 'config'; copy the bundle again")
        _check_types(part, _FIELDS, where)
        check_settings(part["config"], where)
        if not all(isinstance(task, str) for task in part["config"].get("answers", ())):
            raise UserError(f"{where}: 'answers' must list names of tasks; copy the bundle again")


def check_settings(config: Mapping[str, Any], where: str) -> None:
    """Check the kinds of a part's settings.

    Raises:
        UserError: naming the setting.
    """
    _check_types(config, _SETTINGS, where)


def check_sizes(config: Mapping[str, Any], tensors: int | None, where: str) -> None:
    """Check that the numbers of a part's configuration are sizes of a model with so many tensors.

    Args:
        config: settings by name, plain values.
        tensors: how many the file of weights holds; None without one.
        where: what messages call the part.

    Raises:
        UserError: naming the field, if one is negative, not finite, or larger than the weights can be.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, tensors, where)
            continue
        listed = value if isinstance(value, list) else [value]
        if len(listed) > MOST_LAYERS:
            raise UserError(f"{where}: {name!r} has {len(listed)} values; at most {MOST_LAYERS} make sense")
        counts = str(name).endswith(_COUNTS)
        least = 1 if "num_" in str(name) else 0
        most = LARGEST if not counts or tensors == 0 else tensors or MOST_LAYERS
        if not all(least <= number <= most for number in listed if isinstance(number, int | float)):
            raise UserError(
                f"{where}: {name!r} of {_brief(value)} is no size that the weights can have ({least} to {most})"
            )


def _brief(value: object) -> str:
    text = f"{value}"
    return text if len(text) < _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _check_types(fields: Mapping[Any, Any], kinds: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    for name, kind in kinds.items():
        if name in fields and (not isinstance(fields[name], kind) or isinstance(fields[name], bool)):
            shown = kind[0] if isinstance(kind, tuple) else kind
            raise UserError(f"{where}: {name!r} must be of the type {shown.__name__}; copy the bundle again")
    if strange := next((name for name in fields if not isinstance(name, str)), None):
        raise UserError(f"{where}: the name {strange!r} of a setting is no text; copy the bundle again")
