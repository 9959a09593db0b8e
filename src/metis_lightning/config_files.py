"""The config files that are among the arguments of a trainer's verb, and what each says.

The key `based_on` names the config that a file is laid over, in the file's folder or in one below it, so that the file
runs by itself:

    based_on: tse_lora.yaml
    model: {init_args: {lora_rank: 0}}

No other file is read, and errors quote nothing of a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from metis_lightning.errors import UserError
from metis_lightning.merging import FILE_ENDINGS, NAME, nested
from metis_lightning.safe_yaml import MAX_BYTES, load_yaml, read_yaml

BASE, BY_MODEL = "based_on", "by_model"
_OPTIONS = ("-c", "--config")
_JOINED = re.compile(r"(-c=?|--config=)(?=.)", re.DOTALL)
_PARTS = ("model", "data", "trainer")
_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")


class Layer(NamedTuple):
    """A config: what messages call it, the argument before which the options stand that it may overrule, content."""

    name: str
    position: int
    content: dict[str, Any]


def read_configs(args: Sequence[str]) -> tuple[list[str], list[Layer], list[Path]]:
    """Return the arguments without the configs, the configs in the order in which they are laid, and their files."""
    words: list[str] = []
    layers: list[Layer] = []
    files: list[Path] = []
    rest = iter(args)
    for arg in rest:
        joined = _JOINED.match(arg)
        if not joined and arg not in _OPTIONS:
            words.append(arg)
            continue
        value = arg[joined.end() :] if joined else next(rest, None)
        if value is None:
            raise UserError(f"{arg}: the name of a config file is missing")
        if Path(value).is_file() or not _is_text(value):
            for file in _with_bases(Path(value), files) if "://" not in value else [value]:
                layers.append(Layer(str(file), len(words), _content(file)))
                files += [file] if isinstance(file, Path) else []
        else:
            layers.append(Layer("the text after -c", len(words), _checked(load_yaml(value, "-c"), "-c")))
    return words, layers, files


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
    return _beside(file, content[BASE], f"it is {BASE}")


def _beside(file: Path, name: Any, says: str) -> Path:  # noqa: ANN401  whatever stands there
    """Return the file that a config names, which lies in the config's folder or in one below it, be it by a link.

    Raises:
        UserError: if it lies elsewhere or does not exist.
    """
    folder = file.parent
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{file}: {says} something else than a file in its own folder or in one below it")
    found = folder / name
    if not found.is_file():
        raise UserError(f"{file}: {says} {name!r}, but there is no {found}")
    return found


def _content(file: Path | str) -> dict[str, Any]:
    """Return what a config says by itself, its parts that lie in files of their own included."""
    if isinstance(file, str):
        return _checked(load_yaml(_download(file), file), file)
    content = _checked(read_yaml(file), str(file))
    for part in _PARTS:
        if isinstance(named := content.get(part), str) and named.endswith(FILE_ENDINGS):
            source = _beside(file, named, f"{part} is")
            content[part] = _checked(read_yaml(source), str(source))
        elif isinstance(named, str) and not NAME.fullmatch(named):
            raise UserError(f"{file}: {part} is neither settings, nor a class, nor a file that ends in .yaml")
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
    result: dict[str, Any] = nested(content, source)
    if spoken is not None:
        if not isinstance(spoken, dict) or not all(isinstance(said, dict) for said in spoken.values()):
            raise UserError(f"{source}: {BY_MODEL} names classes, and below each what it says to them")
        result[BY_MODEL] = {name: nested(said, source) for name, said in spoken.items()}
    return result


def _download(address: str) -> str:
    """Return the text of a config that lies on a server."""
    try:
        with fsspec.open(address, "rb") as file:
            content: bytes = file.read(MAX_BYTES)
        return content.decode("utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{address}: cannot be read ({type(error).__name__})") from error
