"""Configs that are laid over others, merged before the parser sees them.

The key `by_model` says different things to different modules:

    trainer: {precision: bf16-mixed}          # for every module
    by_model:
      package.PretrainModule:                 # for this class and those that derive from it
        model: {init_args: {stage1: {hidden_size: 1536}}}

So one file brings every config to another scale, though the modules' settings have different names. An option that
names another class is merged like a config, one that fills a `???` takes its place, and one that stands before a config
that overrules it is refused; the parser sees the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metis_lightning.errors import UserError
from metis_lightning.files import printable
from metis_lightning.safe_parsing import dump_yaml
from metis_lightning.trainer.config_files import BY_MODEL, Layer, option_value, read_configs
from metis_lightning.trainer.merging import ARGUMENTS, CLASS, MISSING, Merged, as_class, find_class


class MergedArguments(NamedTuple):
    """The arguments of a trainer's command with one config, all of them merged, before every option.

    files: the config files, bases too.
    dropped: see `Merged`.
    missing: the options that must be given and are not; the config is without them.
    """

    args: list[str]
    files: list[Path]
    dropped: list[str]
    missing: list[str]


def merge_configs(args: Sequence[str]) -> MergedArguments:
    """Return a command's arguments with its configs merged; a `UserError` if one is faulty or overrules an option."""
    words, layers, files = read_configs(args)
    for key, value, _ in options_in(words):
        # A folder's name, for instance, that no config can hold.
        if printable(key + value) != key + value:
            raise UserError(f"--{key} {value}: not UTF-8, which a run's config.yaml must be; rename it, or link to it")
    if not layers:
        return MergedArguments(list(args), [], [], [])
    layers = list(_spoken(layers, words))
    merged = Merged()
    for layer in layers:
        refuse_overruled(layer, words)
        merged.lay(layer.content, layer.name)
    options = list(merge_classes(merged, words))
    missing = list(fill_missing(merged.content, options))
    command = [options.pop(0)] if options and not options[0].startswith("-") else []
    return MergedArguments([*command, "-c", dump_yaml(merged.content), *options], files, merged.dropped, missing)


def _spoken(layers: Sequence[Layer], words: Sequence[str]) -> Iterator[Layer]:
    """Yield the configs with `by_model` resolved: what is said to all modules, to ancestors, to the class itself."""
    # Known only once a config speaks to modules, as others need not name one.
    ancestors: list[str] | None = None
    for layer in layers:
        spoken = layer.content.get(BY_MODEL)
        yield layer._replace(content={key: value for key, value in layer.content.items() if key != BY_MODEL})
        if spoken is None:
            continue
        for name in spoken:
            # What is said to a class that does not exist would be lost without a word.
            if name.startswith("metis_lightning.") and find_class(name) is None:
                raise UserError(f"{layer.name}: {BY_MODEL}: there is no class {name!r}")
        ancestors = class_names(_module(layers, words)) if ancestors is None else ancestors
        # The class itself has the last word, its nearest ancestor the word before.
        for name in reversed(ancestors):
            if name in spoken:
                yield layer._replace(content=spoken[name])


def _module(layers: Sequence[Layer], words: Sequence[str]) -> str:
    models = [as_class(layer.content.get("model"), beside={CLASS: ""}) for layer in layers]
    named = [model.get(CLASS) for model in models if isinstance(model, dict)]
    named += [value for key, value, _ in options_in(words) if key in ("model", f"model.{CLASS}")]
    paths = [path for path in named if path]
    if not paths:
        raise UserError(f"a config with {BY_MODEL!r} is laid over another one, which names the module: give that first")
    module = None
    for path in paths:
        module = find_class(path, beside=module) or module
    return paths[-1] if "." in paths[-1] or module is None else f"{module.__module__}.{module.__qualname__}"


def class_names(path: str) -> list[str]:
    """Return the full names of a class and its ancestors, itself first. A `UserError` if there is no such class."""
    cls = find_class(path)
    if not isinstance(cls, type):
        raise UserError(f"model: there is no class {path!r}")
    return [f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in cls.__mro__]


def options_in(words: Sequence[str]) -> Iterator[tuple[str, str, slice]]:
    """Yield key, value and place of every option among the arguments; the value is empty if it has none."""
    for at, word in enumerate(words):
        if word.startswith("--"):
            key, joined, value = word[2:].partition("=")
            follows = not joined and at + 1 < len(words) and not words[at + 1].startswith("--")
            yield key.rstrip("+"), words[at + 1] if follows else value, slice(at, at + 1 + follows)


def refuse_overruled(layer: Layer, words: Sequence[str]) -> None:
    """Raise a `UserError` if a config overrules an option that stands before it."""
    said = set(_keys(layer.content))
    for key, _, _ in options_in(words[: layer.position]):
        # `init_args` may be left out in options.
        own = ".".join(part for part in key.split(".") if part != ARGUMENTS)
        if any(f"{own}.".startswith(f"{other}.") or f"{other}.".startswith(f"{own}.") for other in said):
            raise UserError(f"--{key} stands before {layer.name}, which says otherwise; give options after all configs")


def _keys(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    for key, value in content.items():
        own = above if key == ARGUMENTS else f"{above}.{str(key).rstrip('+')}".removeprefix(".")
        if isinstance(value, dict) and value:
            yield from _keys(value, own)
        else:
            yield own


def merge_classes(merged: Merged, words: Sequence[str]) -> Iterator[str]:
    """Merge the options that name a class where the configs name another, and yield the other arguments."""
    taken: set[int] = set()
    for key, value, place in options_in(words):
        parts = key.split(".")
        loaded = option_value(value)
        if parts[-1] == CLASS:
            parts, loaded = parts[:-1], {CLASS: loaded}
        where = _find(merged.content, parts)
        if where is not None and isinstance(loaded := as_class(loaded, beside={CLASS: ""}), dict) and CLASS in loaded:
            # Laid like a config, so that the new class keeps the arguments that it takes.
            for part in reversed(where):
                loaded = {part: loaded}
            merged.lay(loaded, f"--{key}")
            taken |= set(range(place.start, place.stop))
    yield from (word for at, word in enumerate(words) if at not in taken)


def _find(content: Any, parts: Sequence[str]) -> list[str] | None:  # noqa: ANN401  any value
    """Return the keys that lead to the class that an option names; None if the configs have none there."""
    where: list[str] = []
    for part in parts:
        if isinstance(content, dict) and part not in content and isinstance(content.get(ARGUMENTS), dict):
            where, content = [*where, ARGUMENTS], content[ARGUMENTS]
        if not isinstance(content, dict) or part not in content:
            return None
        where, content = [*where, part], content[part]
    return where if isinstance(content, dict) and CLASS in content else None


def fill_missing(content: Any, options: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:  # noqa: ANN401  any value
    """Put options in the place of `???`, taking them from the list, and yield those that are not given."""
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        own = (*above, str(key)) if key != ARGUMENTS else above
        if isinstance(value, dict | list):
            yield from fill_missing(value, options, own)
        elif value == MISSING and isinstance(content, dict):
            # An option gives the value itself, or all of what the value lies in.
            named = []
            for option, text, place in options_in(options):
                # Users may leave these two out.
                parts = tuple(part for part in option.split(".") if part not in (ARGUMENTS, CLASS))
                if own[: len(parts)] == parts:
                    named.append((parts, text, place))
            if exact := [(text, place) for parts, text, place in named if parts == own]:
                text, place = exact[-1]
                content[key] = option_value(text)
                del options[place]
            else:
                del content[key]
                if not named:
                    yield f"--{'.'.join(own)}"
