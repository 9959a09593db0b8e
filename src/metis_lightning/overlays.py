"""Overlays that say different things to different modules: the key `by_model` of a config.

    trainer: {precision: bf16-mixed}          # for every module
    by_model:
      package.PretrainModule:                 # for this class and those that derive from it
        model: {init_args: {stage1: {hidden_size: 1536}}}

So one file brings every config to another scale, though the modules' settings have different names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from metis_lightning.errors import UserError

KEY = "by_model"
_OPTIONS = ("-c", "--config")
_JOINED = tuple(f"{option}=" for option in _OPTIONS)


def resolve_overlays(args: Sequence[str]) -> list[str]:
    """Return the arguments of a trainer's verb with each overlay replaced by what it says to the run's own module.

    The module is the last that a config names. Files without `by_model` stay as they are.

    Raises:
        UserError: if an overlay is given and no config names a module.
    """
    args = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(_JOINED) else [arg])]
    contents = [_content(value) if option in _OPTIONS else {} for option, value in zip(["", *args], args, strict=False)]
    if not any(KEY in content for content in contents):
        return list(args)
    named = [path for content in contents if (path := _class_path(content))]
    if not named:
        raise UserError(f"a config with {KEY!r} is laid over another one, which names the module: give that first")
    ancestors = class_names(named[-1])
    return [
        yaml.safe_dump(said_to(content, ancestors), sort_keys=False) if KEY in content else argument
        for argument, content in zip(args, contents, strict=True)
    ]


def said_to(overlay: Mapping[str, Any], ancestors: Sequence[str]) -> dict[str, Any]:
    """Return what an overlay says to a class, given its own and its ancestors' names; its own have the last word.

    >>> said_to({"a": 1, "by_model": {"x.Child": {"a": 2}, "x.Other": {"a": 3}}}, ["x.Child", "x.Parent"])
    {'a': 2}
    """
    merged = {key: value for key, value in overlay.items() if key != KEY}
    for name in reversed(ancestors):
        merged = _laid_over(merged, overlay[KEY].get(name, {}))
    return merged


def class_names(path: str) -> list[str]:
    """Return the full names of a class and its ancestors, itself first.

    Raises:
        UserError: if there is no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model: there is no class {path!r} ({error})") from error
    return [f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in found.__mro__]


def _content(file: str) -> dict[str, Any]:
    """Return a config file's content; empty if it is not a readable config, which the parser will say."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_path(content: Mapping[str, Any]) -> str | None:
    model = content.get("model")
    return model.get("class_path") if isinstance(model, dict) else None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two configs merged key by key, the upper one's values first."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in both}}
