"""The config files that are among the arguments of a trainer's verb, and what each says.

The key `based_on` names the config that a file is laid over, in the file's folder or in one below it, so that the file
runs by itself:

    based_on: tse_lora.yaml
    model: {init_args: {lora_rank: 0}}

No other file is read, and errors quote nothing of a file.

Options of a trainer's verb that have to do with what its configs say.

An option that names another class is merged like a config, one that fills a `???` takes its place, and one that stands
before a config that overrules it is refused. The parser sees the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from metis_lightning.errors import UserError
from metis_lightning.renamed_classes import current_class_path, with_current_class_paths
from metis_lightning.safe_parsing import MAX_BYTES, load_yaml, read_yaml
from metis_lightning.texts import is_unicode
from metis_lightning.trainer.merging import ARGUMENTS, CLASS, FILE_ENDINGS, MISSING, NAME, Merged, as_class, nested

BASE, BY_MODEL = "based_on", "by_model"
_OPTIONS = ("-c", "--config")
_JOINED = re.compile(r"(-c=?|--config=)(?=.)", re.DOTALL)
_PARTS = ("model", "data", "trainer")
_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")


class Layer(NamedTuple):
    """A config.

    name: what messages call it.
    position: the argument before which the options stand that it may overrule.
    content: what it says, without its bases.
    is_experiment: it is based on a file of another folder; scales are laid between that and it.
    """

    name: str
    position: int
    content: dict[str, Any]
    is_experiment: bool = False


def read_configs(args: Sequence[str]) -> tuple[list[str], list[Layer], list[Path]]:
    """Return the arguments without the configs, the configs in the order in which they are laid, and their files."""
    words: list[str] = []
    layers: list[Layer] = []
    files: list[Path] = []
    rest = iter(args)
    for arg in rest:
        joined = _JOINED.match(arg)
        if not joined and arg not in _OPTIONS:
            option, equals, said = arg.rpartition("=")
            words.append(f"{option}{equals}{current_class_path(said)}")
            continue
        value = arg[joined.end() :] if joined else next(rest, None)
        if value is None:
            raise UserError(f"{arg}: the name of a config file is missing")
        if "://" in value and not _is_text(value):
            layers.append(Layer(value, len(words), _content(value)))
        elif Path(value).is_file() or not _is_text(value):
            below: Path | None = None
            for file in _with_bases(named_file(value), files):
                is_experiment = below is not None and below.parent.resolve() != file.parent.resolve()
                layers.append(Layer(str(file), len(words), _content(file), is_experiment))
                files.append(file)
                below = file
        else:
            layers.append(Layer("the text after -c", len(words), _checked(load_yaml(value, "-c"), "-c")))
    return words, _in_order(layers), files


def _in_order(layers: Sequence[Layer]) -> list[Layer]:
    """Return configs in the order in which they are laid: what speaks to any module comes below all experiments."""
    ordered: list[Layer] = []
    for layer in layers:
        first = next((at for at, each in enumerate(ordered) if each.is_experiment), len(ordered))
        # A scale would otherwise overrule what makes an experiment, such as its number of steps.
        ordered.insert(first if BY_MODEL in layer.content else len(ordered), layer)
    return ordered


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the package, by name: `tse_lora`, `scale/paper`, `table_03/tse_lora_4`."""
    package = Path(__file__).parents[1]
    # A wheel holds the folders in the package; in a checkout they stand beside `src`.
    root = package if (package / "configs").is_dir() else package.parents[1]
    return {
        file.relative_to(root / folder).with_suffix("").as_posix(): file
        for folder in ("configs", "experiments")
        for file in (root / folder).rglob("*.yaml")
    }


def named_file(name: str) -> Path:
    """Return the file that a path names or, where there is none, the package's config of that name.

    Raises:
        UserError: there is neither.
    """
    path, shipped = Path(name), shipped_configs()
    if not os.path.lexists(path) and name in shipped:
        return shipped[name]
    if not path.exists() and (guess := get_close_matches(name, shipped, n=1)):
        raise UserError(f"{name}: no such file; did you mean the package's {guess[0]!r}?")
    return path


def _is_text(value: str) -> bool:
    """Tell whether the value of `-c` is a config itself instead of its name."""
    return "\n" in value or ": " in value or value.startswith("{")


def _with_bases(file: Path, given: Sequence[Path]) -> list[Path]:
    """Return a config and those that it is based on, lowest first, down to one that was given already.

    Raises:
        UserError: if a base is missing, lies elsewhere, or is based on what is based on it.
    """
    chain = [file]
    known = {path.resolve() for path in given}
    while (base := _base(chain[-1])) is not None and base.resolve() not in known:
        if base.resolve() in {path.resolve() for path in chain}:
            round_trip = " is based on ".join(map(str, [*chain, base]))
            raise UserError(f"{round_trip}: a config cannot be below itself")
        chain.append(base)
    return chain[::-1]


def _base(file: Path) -> Path | None:
    """Return the config that a file is based on."""
    content = read_yaml(file)
    if not isinstance(content, dict) or BASE not in content:
        return None
    name = content[BASE]
    if not isinstance(name, str) or Path(name).is_absolute():
        raise UserError(f"{file}: it is {BASE} something else than a file, named by its path from the config's folder")
    base = Path(os.path.normpath(file.parent / name))
    if not base.is_file():
        raise UserError(f"{file}: it is {BASE} {name!r}, but there is no {base}")
    return base


def _part(file: Path, name: str, key: str) -> Path:
    """Return the file that holds a part of a config, which lies in the config's folder or in one below it.

    Raises:
        UserError: if it lies elsewhere or does not exist.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{file}: {key} is something else than a file in its own folder or in one below it")
    if not (part := file.parent / name).is_file():
        raise UserError(f"{file}: {key} is {name!r}, but there is no {part}")
    return part


def _content(file: Path | str) -> dict[str, Any]:
    """Return what a config says by itself, its parts that lie in files of their own included."""
    if isinstance(file, str):
        return _checked(load_yaml(_download(file), file), file)
    content = _checked(read_yaml(file), str(file))
    for part in _PARTS:
        if isinstance(named := content.get(part), str) and named.endswith(FILE_ENDINGS):
            source = _part(file, named, part)
            content[part] = _checked(read_yaml(source), str(source))
        elif isinstance(named, str):
            if not NAME.fullmatch(named):
                raise UserError(f"{file}: {part} is neither settings, nor a class, nor a file that ends in .yaml")
            content[part] = current_class_path(named)
    return content


def _checked(content: Any, source: str) -> dict[str, Any]:  # noqa: ANN401  whatever stands there
    """Return a config's content, `based_on` left out.

    Raises:
        UserError: if it is none, or asks for more than values of other keys.
    """
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{source}: not a config: it has no keys such as model, data, trainer")
    if found := _RESOLVER.search(str(content)):
        raise UserError(
            f"{source}: ${{{found[1]}:…}} is not resolved in a config, only references to its keys are; give the value "
            "as an option, in which the shell fills in variables"
        )
    spoken = content.pop(BY_MODEL, None)
    content.pop(BASE, None)
    result: dict[str, Any] = with_current_class_paths(nested(content, source))
    if spoken is not None:
        if not isinstance(spoken, dict) or not all(isinstance(said, dict) for said in spoken.values()):
            raise UserError(f"{source}: {BY_MODEL} names classes, and below each what it says to them")
        result[BY_MODEL] = {
            current_class_path(name): with_current_class_paths(nested(said, source)) for name, said in spoken.items()
        }
    return result


def _download(address: str) -> str:
    """Return the text of a config that lies on a server."""
    try:
        with fsspec.open(address, "rb") as file:
            content: bytes = file.read(MAX_BYTES)
        return content.decode("utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{address}: cannot be read ({type(error).__name__})") from error


def options_in(words: Sequence[str]) -> Iterator[tuple[str, str, slice]]:
    """Yield key, value and place of every option among the arguments; the value is empty if it has none."""
    for at, word in enumerate(words):
        if word.startswith("--"):
            key, joined, value = word[2:].partition("=")
            follows = not joined and at + 1 < len(words) and not words[at + 1].startswith("--")
            yield key.rstrip("+"), words[at + 1] if follows else value, slice(at, at + 1 + follows)


def refuse_odd_bytes(words: Sequence[str]) -> None:
    """Refuse an option whose value, such as the name of a folder, is not UTF-8: no config can hold it."""
    for key, value, _ in options_in(words):
        if not is_unicode(key + value):
            raise UserError(f"--{key} {value}: not UTF-8, which a run's config.yaml must be; rename it, or link to it")


def refuse_overruled(layer: Layer, words: Sequence[str]) -> None:
    """Refuse an option that a config behind it would overrule."""
    said = set(_keys(layer.content))
    for key, _, _ in options_in(words[: layer.position]):
        own = ".".join(part for part in key.split(".") if part != ARGUMENTS)
        if any(f"{own}.".startswith(f"{other}.") or f"{other}.".startswith(f"{own}.") for other in said):
            raise UserError(f"--{key} stands before {layer.name}, which says otherwise; give options after all configs")


def _keys(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Yield the keys of a config as options name them."""
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
        loaded = _value(value)
        if parts[-1] == CLASS:
            parts, loaded = parts[:-1], {CLASS: loaded}
        where = _find(merged.content, parts)
        if where is not None and isinstance(loaded := as_class(loaded, beside={CLASS: ""}), dict) and CLASS in loaded:
            for part in reversed(where):
                loaded = {part: loaded}
            merged.lay(loaded, f"--{key}")
            taken |= set(range(place.start, place.stop))
    yield from (word for at, word in enumerate(words) if at not in taken)


def _value(text: str) -> Any:  # noqa: ANN401  any value
    """Return what the value of an option holds: of a file its content."""
    if text.endswith(FILE_ENDINGS) and Path(text).is_file():
        return nested(read_yaml(Path(text)), text)
    try:
        return nested(load_yaml(text, "an option"), "an option")
    except UserError:
        return text  # The parser, which knows what it expects, says what is wrong.


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
            named = [(option, given, place) for option, given, place in options_in(options) if _covers(option, own)]
            exact = [(given, place) for option, given, place in named if _parts(option) == own]
            if exact:
                content[key], place = _value(exact[-1][0]), exact[-1][1]
                del options[place]
            else:
                del content[key]
                if not named:
                    yield f"--{'.'.join(own)}"


def _parts(option: str) -> tuple[str, ...]:
    return tuple(part for part in option.split(".") if part not in (ARGUMENTS, CLASS))


def _covers(option: str, key: tuple[str, ...]) -> bool:
    """Tell whether an option gives the value of a key, or of what the key lies in."""
    return key[: len(_parts(option))] == _parts(option)
