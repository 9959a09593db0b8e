"""Configs that are laid over others, merged before the parser sees them.

The key `by_model` says different things to different modules:

    trainer: {precision: bf16-mixed}          # for every module
    by_model:
      package.PretrainModule:                 # for this class and those that derive from it
        model: {init_args: {stage1: {hidden_size: 1536}}}

So one file brings every config to another scale, though the modules' settings have different names. What configs are
based on is in `config_files`, how one is laid over another in `merging`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import dump_yaml
from metis_lightning.trainer.config_files import (
    BY_MODEL,
    Layer,
    fill_missing,
    merge_classes,
    options_in,
    read_configs,
    refuse_odd_bytes,
    refuse_overruled,
)
from metis_lightning.trainer.merging import CLASS, Merged, as_class, find_class


class Settings(NamedTuple):
    """What the arguments of a trainer's verb say.

    args: the arguments with one config, all of them merged, before every option.
    files: the config files, bases too.
    dropped: a line for each setting that is lost because the class above it does not take it.
    missing: the options that must be given and are not; the config is without them.
    """

    args: list[str]
    files: list[Path]
    dropped: list[str]
    missing: list[str]


def merge_configs(args: Sequence[str]) -> Settings:
    """Return the arguments of a trainer's verb with its configs merged into one, bases and `by_model` included.

    A base that was given already is not laid again. `by_model` speaks to the module that is named last. An option that
    names another class is merged too, so that the class keeps the arguments it takes.

    Raises:
        UserError: if a config cannot be read, a base is missing or elsewhere, an option is not UTF-8 or overruled by a
            config behind it, or an overlay by module is given and nothing names a module.
    """
    words, layers, files = read_configs(args)
    refuse_odd_bytes(words)
    if not layers:
        return Settings(list(args), [], [], [])
    layers = list(_spoken(layers, words))
    merged = Merged()
    for layer in layers:
        refuse_overruled(layer, words)
        merged.lay(layer.content, layer.name)
    options = list(merge_classes(merged, words))
    missing = list(fill_missing(merged.content, options))
    verb = [options.pop(0)] if options and not options[0].startswith("-") else []
    return Settings([*verb, "-c", dump_yaml(merged.content), *options], files, merged.dropped, missing)


def _spoken(layers: Sequence[Layer], words: Sequence[str]) -> Iterator[Layer]:
    """Yield the configs with `by_model` resolved: what a file says to every module, to ancestors, to the class itself.

    Raises:
        UserError: if nothing names the module, or a class that is spoken to does not exist.
    """
    ancestors: list[str] | None = None
    for layer in layers:
        spoken = layer.content.get(BY_MODEL)
        yield layer._replace(content={key: value for key, value in layer.content.items() if key != BY_MODEL})
        if spoken is None:
            continue
        _refuse_unknown(spoken, layer.name)
        ancestors = class_names(_module(layers, words)) if ancestors is None else ancestors
        for name in reversed(ancestors):
            if name in spoken:
                yield layer._replace(content=spoken[name])


def _module(layers: Sequence[Layer], words: Sequence[str]) -> str:
    """Return the full name of the module that configs and options name last."""
    named = [_class_path(layer.content.get("model")) for layer in layers]
    named += [value for key, value, _ in options_in(words) if key in ("model", f"model.{CLASS}")]
    paths = [path for path in named if path]
    if not paths:
        raise UserError(f"a config with {BY_MODEL!r} is laid over another one, which names the module: give that first")
    found = None
    for path in paths:
        found = find_class(path, beside=found) or found
    return paths[-1] if "." in paths[-1] or found is None else f"{found.__module__}.{found.__qualname__}"


def _refuse_unknown(spoken: Mapping[str, Any], source: str) -> None:
    """Refuse classes of this package that do not exist: what is said to them would be lost."""
    for name in spoken:
        if name.startswith("metis_lightning.") and find_class(name) is None:
            raise UserError(f"{source}: {BY_MODEL}: there is no class {name!r}")


def class_names(path: str) -> list[str]:
    """Return the full names of a class and its ancestors, itself first.

    Raises:
        UserError: if there is no such class.
    """
    found = find_class(path)
    if not isinstance(found, type):
        raise UserError(f"model: there is no class {path!r}")
    return [f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in found.__mro__]


def _class_path(value: Any) -> str | None:  # noqa: ANN401  whatever stands there
    """Return the class that a config's `model` names."""
    full = as_class(value, beside={CLASS: ""})
    return full.get(CLASS) if isinstance(full, dict) else None
