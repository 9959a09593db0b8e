"""Checks of what `bundle.yaml` and checkpoints say: fields of their types, and sizes that the weights bear out.

A model of a hundred million layers would be built for hours before its weights turn out not to fit, so sizes are
compared with the number of tensors first. Every refusal is a `UserError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version
from torch import Tensor

from metis_lightning.errors import UserError

# No width, rate or codebook of a model is larger.
LARGEST = 1_000_000
# What a list holds at most, and of how many equal parts a model is where no file of weights tells.
MOST_LAYERS = 1_000

Types = Mapping[str, type | tuple[type, ...]]
_ENTRY: Types = {"sha256": str, "parameters": int, "dtype": str}
_SETTINGS: Types = {
    "adapter": (str, NoneType),
    "answers": list,
    "base_sha256": str,
    "cond_dim": int,
    "kind": str,
    "lora_rank": int,
    "spread_phones": bool,
    "stage1": dict,
    "text": (str, NoneType),
}
# Fields that name how many tensors of a kind there are.
_COUNTS = ("num_layers", "num_hidden_layers", "num_quantizers", "encoder_layers")
_LONGEST_SHOWN = 30


def check_index(index: object, path: Path) -> None:
    """Refuse an index that has not the form of a bundle's."""
    if not isinstance(index, dict) or not isinstance(index.get("parts"), dict):
        raise UserError(f"{path}: not a bundle index (it has no 'parts')")
    for name, part in index["parts"].items():
        where = f"{path}: part {name!r}"
        if not isinstance(name, str) or not isinstance(part, dict):
            raise UserError(f"{where}: expected a name, and settings below it; copy the bundle again")
        if not isinstance(part.get("config"), dict):
            raise UserError(f"{where}: it has no 'config'; copy the bundle again")
        check_types(part, where, _ENTRY)
        check_types(part["config"], where)
        if not all(isinstance(task, str) for task in part["config"].get("answers", ())):
            raise UserError(f"{where}: 'answers' must list names of tasks; copy the bundle again")


def check_types(values: Mapping[Any, Any], where: str, types: Types = _SETTINGS) -> None:
    """Check the types of named values, a part's settings unless told otherwise; any may be absent."""
    for name, expected in types.items():
        # True is an int to Python, not to a reader.
        as_number = expected is not bool and isinstance(values.get(name), bool)
        if name in values and (not isinstance(values[name], expected) or as_number):
            shown = expected[0] if isinstance(expected, tuple) else expected
            raise UserError(f"{where}: {name!r} must be of the type {shown.__name__}; copy the bundle again")
    if odd := next((name for name in values if not isinstance(name, str)), None):
        raise UserError(f"{where}: the name {odd!r} of a setting is no text; copy the bundle again")


def check_sizes(config: Mapping[str, Any], tensors: int | None, where: str) -> None:
    """Refuse a part's configuration, `where` in messages, whose numbers are no sizes of a model with so many tensors.

    `tensors` is how many the file of weights holds, None without one.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, tensors, where)
            continue
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > MOST_LAYERS:
            raise UserError(f"{where}: {name!r} has {len(numbers)} values; at most {MOST_LAYERS} make sense")
        # Without layers of its own a semantic codec quantises the features themselves.
        least = 1 if "num_" in str(name) and name != "vocos_num_layers" else 0
        # Each layer has a tensor at least, so there are no more layers than tensors.
        is_count = str(name).endswith(_COUNTS) and tensors != 0
        most = (tensors or MOST_LAYERS) if is_count else LARGEST
        if not all(least <= number <= most for number in numbers if isinstance(number, int | float)):
            shown = str(value) if len(str(value)) < _LONGEST_SHOWN else str(value)[:_LONGEST_SHOWN] + "…"
            raise UserError(f"{where}: {name!r} of {shown} is no size that the weights can have ({least} to {most})")


def check_fields(content: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint, called `what` in messages, without weights or with fields of other types."""
    fields = _Fields(content, what)
    fields.weights("state_dict")
    for name in {"epoch", "global_step", "seed"} & content.keys():
        fields.get(name, int)
    for name, part in fields.get("bundle_parts", dict).items() if "bundle_parts" in content else ():
        if not isinstance(name, str):
            raise fields.error(f"bundle_parts.{name}", "named by no text")
        settings = _Fields(part, what, f"bundle_parts.{name}.")
        check_types(settings.get("config", dict), f"{what}: part {name!r}")
        settings.get("prefix", str)
        if "origin" in part:
            settings.get("origin", dict)
    if content.get("ema") is not None:
        average = _Fields(fields.get("ema", dict), what, "ema.")
        average.weights("weights")
        average.get("updates", int)
        if average.get("validate_with", str) not in ("ema", "raw"):
            raise average.error("validate_with", "neither 'ema' nor 'raw'")


def check_run(content: Mapping[str, Any], loop: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint that passed `check_fields` and that a run cannot go on from.

    `loop` is the state of the Trainer's own fit loop, for the types of its fields; messages begin with `what`.
    """
    check_version(content, what)
    fields = _Fields(content, what)
    for name in ("epoch", "global_step"):
        fields.get(name, int)
    fields.each("callbacks", dict)
    optimizers = fields.each("optimizer_states", list)
    if not optimizers:
        raise fields.error("optimizer_states", "empty")
    for optimizer in optimizers:
        optimizer.each("state", dict)
        for group in optimizer.each("param_groups", list):
            group.get("params", list)
    fields.each("lr_schedulers", list)
    loops = _Fields(fields.get("loops", dict), what, "loops.")
    _check_alike(_Fields(loops.get("fit_loop", dict), what, "loops.fit_loop."), loop)


def check_version(content: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint that does not say which Lightning wrote it."""
    fields, name = _Fields(content, what), "pytorch-lightning_version"
    try:
        Version(fields.get(name, str))
    except InvalidVersion as error:
        raise fields.error(name, "not a version") from error


def _check_alike(fields: _Fields, own: Mapping[str, Any]) -> None:
    """Refuse a loop's state that has not the types of the Trainer's own; other versions may lack counters."""
    for name, value in own.items():
        if name.endswith("state_dict") and name not in fields.values:
            raise fields.error(name, "missing")
        if name in fields.values and isinstance(value, dict):
            _check_alike(_Fields(fields.get(name, dict), fields.what, f"{fields.prefix}{name}."), value)
        elif name in fields.values and isinstance(value, int):
            fields.get(name, int)


T = TypeVar("T")


class _Fields:
    """A mapping in a checkpoint, whose values are read by name and type."""

    def __init__(self, values: object, what: str, prefix: str = "") -> None:
        self.what, self.prefix = what, prefix
        if not isinstance(values, Mapping):
            raise UserError(f"{what}: its field {prefix.rstrip('.')} is a {type(values).__name__}, not a dict")
        self.values = values

    def get(self, name: str, expected: type[T]) -> T:
        if name not in self.values:
            raise self.error(name, "missing")
        value = self.values[name]
        if not isinstance(value, expected):
            raise self.error(name, f"a {type(value).__name__}, not a {expected.__name__}")
        return value

    def each(self, name: str, expected: type[dict] | type[list]) -> list[_Fields]:
        """Return the mappings in a dict or a list."""
        values = self.get(name, expected)
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        return [_Fields(value, self.what, f"{self.prefix}{name}.{key}.") for key, value in pairs]

    def weights(self, name: str) -> None:
        for key, value in self.get(name, dict).items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise self.error(f"{name}.{key}", f"a {type(value).__name__}, not a tensor")

    def error(self, name: str, how: str) -> UserError:
        return UserError(f"{self.what}: its field {self.prefix}{name} is {how}")
