"""What stands in a checkpoint, field by field: those that inference reads, and those that a run goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.weights.bundle_index import check_settings


def check_fields(content: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint without weights, or whose own fields are not of their kind.

    Args:
        content: of a checkpoint.
        what: the checkpoint, as a message begins.

    Raises:
        UserError: naming the field.
    """
    fields = _Fields(content, what)
    fields.weights(fields.get("state_dict", dict), "state_dict")
    for name in ("epoch", "global_step", "seed"):
        if name in content:
            fields.get(name, int)
    if "bundle_parts" in content:
        for name, part in fields.get("bundle_parts", dict).items():
            if not isinstance(name, str):
                raise fields.wrong(f"bundle_parts.{name}", "named by no text")
            inner = _Fields(part, what, f"bundle_parts.{name}.")
            check_settings(inner.get("config", dict), f"{what}: part {name!r}")
            inner.get("prefix", str)
    if content.get("ema") is not None:
        average = _Fields(fields.get("ema", dict), what, "ema.")
        average.weights(average.get("weights", dict), "weights")
        average.get("updates", int)
        if average.get("validate_with", str) not in ("ema", "raw"):
            raise average.wrong("validate_with", "neither 'ema' nor 'raw'")


def check_run(content: Mapping[str, Any], loop: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint that a run cannot go on from.

    Args:
        content: of a checkpoint that passed `check_fields`.
        loop: the state of the Trainer's own fit loop, for the kinds of its fields.
        what: the checkpoint, as a message begins.

    Raises:
        UserError: naming the field.
    """
    fields = _Fields(content, what)
    check_version(content, what)
    for name in ("epoch", "global_step"):
        fields.get(name, int)
    for name, state in fields.get("callbacks", dict).items():
        _Fields(state, what, f"callbacks.{name}.")
    if not fields.get("optimizer_states", list):
        raise fields.wrong("optimizer_states", "empty")
    for index, state in enumerate(fields.get("optimizer_states", list)):
        inner = _Fields(state, what, f"optimizer_states.{index}.")
        for number, moments in inner.get("state", dict).items():
            _Fields(moments, what, f"optimizer_states.{index}.state.{number}.")
        for number, group in enumerate(inner.get("param_groups", list)):
            _Fields(group, what, f"optimizer_states.{index}.param_groups.{number}.").get("params", list)
    for index, state in enumerate(fields.get("lr_schedulers", list)):
        _Fields(state, what, f"lr_schedulers.{index}.")
    loops = _Fields(fields.get("loops", dict), what, "loops.")
    _check_alike(loops.get("fit_loop", dict), loop, what, "loops.fit_loop")


def check_version(content: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint that does not say which Lightning wrote it.

    Raises:
        UserError: naming the field.
    """
    fields, name = _Fields(content, what), "pytorch-lightning_version"
    try:
        Version(fields.get(name, str))
    except InvalidVersion as error:
        raise fields.wrong(name, "not a version") from error


def _check_alike(given: Mapping[str, Any], own: Mapping[str, Any], what: str, where: str) -> None:
    """Refuse a loop's state that has not the kinds of the Trainer's own; other versions may lack counters."""
    for name, value in own.items():
        if name.endswith("state_dict") and name not in given:
            raise UserError(f"{what}: its field {where}.{name} is missing")
        if name not in given or not isinstance(value, dict | int):
            continue
        fields = _Fields(given, what, f"{where}.")
        if isinstance(value, dict):
            _check_alike(fields.get(name, dict), value, what, f"{where}.{name}")
        else:
            fields.get(name, int)


T = TypeVar("T")


class _Fields:
    """A mapping in a checkpoint, whose values are asked for by name and kind."""

    def __init__(self, values: object, what: str, prefix: str = "") -> None:
        self.what, self.prefix = what, prefix
        if not isinstance(values, Mapping):
            raise UserError(f"{what}: its field {prefix.rstrip('.')} is a {type(values).__name__}, not a dict")
        self.values = values

    def get(self, name: str, kind: type[T]) -> T:
        if name not in self.values:
            raise self.wrong(name, "missing")
        value = self.values[name]
        if not isinstance(value, kind):
            raise self.wrong(name, f"a {type(value).__name__}, not a {kind.__name__}")
        return value

    def weights(self, values: Mapping[object, object], name: str) -> None:
        for key, value in values.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise self.wrong(f"{name}.{key}", f"a {type(value).__name__}, not a tensor")

    def wrong(self, name: str, how: str) -> UserError:
        return UserError(f"{self.what}: its field {self.prefix}{name} is {how}")
