"""Reads the config files that are among the arguments of a trainer's command, with what they are based on.

The key `based_on` names the config that a file is laid over, so that the file runs by itself:

    based_on: tse_lora.yaml
    model: {init_args: {lora_rank: 0}}

No other file is read, and errors quote nothing of a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from metis_lightning.errors import UserError
from metis_lightning.renamed_classes import current_class_path, with_current_class_paths
from metis_lightning.safe_parsing import MAX_BYTES, load_yaml, read_yaml
from metis_lightning.trainer.merging import FILE_ENDINGS, NAME, nested

BASE, BY_MODEL = "based_on", "by_model"
_OPTIONS = ("-c", "--config")
_JOINED = re.compile(r"(-c=?|--config=)(?=.)", re.DOTALL)
_PARTS = ("model", "data", "trainer")
_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")


class Layer(NamedTuple):
    """A config: its name in messages, and what it says without its bases.

    position: the argument before which the options stand that it may overrule.
    is_experiment: it is based on a file of another folder; scales are laid between that and it.
    """

    name: str
    position: int
    content: dict[str, Any]
    is_experiment: bool = False


def read_configs(args: Sequence[str]) -> tuple[list[str], list[Layer], list[Path]]:
    """Return the arguments without the configs, the configs in the order in which they are laid, and their files."""
    words, layers, files = list[str](), list[Layer](), list[Path]()
    rest = iter(args)
    for arg in rest:
        joined = _JOINED.match(arg)
        if not joined and arg not in _OPTIONS:
            # A class may be named as `--model PATH` or `--model=PATH`.
            option, equals, said = arg.rpartition("=")
            words.append(f"{option}{equals}{current_class_path(said)}")
            continue
        # -cFILE and --config=FILE hold the value; after a lone -c it is the next word.
        value = arg[joined.end() :] if joined else next(rest, None)
        if value is None:
            raise UserError(f"{arg}: the name of a config file is missing")
        # A config itself instead of its name.
        is_text = "\n" in value or ": " in value or value.startswith("{")
        if "://" in value and not is_text:
            layers.append(Layer(value, len(words), _content(value)))
        elif Path(value).is_file() or not is_text:
            below: Path | None = None
            for file in _with_bases(_named_file(value), files):
                is_experiment = below is not None and below.parent.resolve() != file.parent.resolve()
                layers.append(Layer(str(file), len(words), _content(file), is_experiment))
                files.append(file)
                below = file
        else:
            layers.append(Layer("the text after -c", len(words), _checked(load_yaml(value, "-c"), "-c")))
    ordered: list[Layer] = []
    for layer in layers:
        # A scale comes below all experiments: it would overrule what makes one, such as its number of steps.
        first = next((at for at, each in enumerate(ordered) if each.is_experiment), len(ordered))
        ordered.insert(first if BY_MODEL in layer.content else len(ordered), layer)
    return words, ordered, files


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


def _named_file(name: str) -> Path:
    """Return the file that a path names or, where there is none, the package's config of that name."""
    path, shipped = Path(name), shipped_configs()
    if not os.path.lexists(path) and name in shipped:
        return shipped[name]
    if not path.exists() and (guess := get_close_matches(name, shipped, n=1)):
        raise UserError(f"{name}: no such file; did you mean the package's {guess[0]!r}?")
    return path


def _with_bases(file: Path, given: Sequence[Path]) -> list[Path]:
    """Return a config and those that it is based on, lowest first, down to one that was given already."""
    chain = [file]
    while isinstance(content := read_yaml(file), dict) and BASE in content:
        name = content[BASE]
        if not isinstance(name, str) or Path(name).is_absolute():
            raise UserError(
                f"{file}: it is {BASE} something else than a file, named by its path from the config's folder"
            )
        base = Path(os.path.normpath(file.parent / name))
        if not base.is_file():
            raise UserError(f"{file}: it is {BASE} {name!r}, but there is no {base}")
        # A base that was given already stays where it stands: laid again, it would undo what came after it.
        if base.resolve() in {path.resolve() for path in given}:
            break
        if base.resolve() in {path.resolve() for path in chain}:
            round_trip = " is based on ".join(map(str, [*chain, base]))
            raise UserError(f"{round_trip}: a config cannot be below itself")
        chain.append(file := base)
    return chain[::-1]


def _content(file: Path | str) -> dict[str, Any]:
    if isinstance(file, str):
        try:
            with fsspec.open(file, "rb") as opened:
                text = opened.read(MAX_BYTES).decode("utf-8-sig")
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{file}: cannot be read ({type(error).__name__})") from error
        return _checked(load_yaml(text, file), file)
    content = _checked(read_yaml(file), str(file))
    for part in _PARTS:
        if not isinstance(named := content.get(part), str):
            continue
        if named.endswith(FILE_ENDINGS):
            # A part lies in the config's folder or in one below it.
            if Path(named).is_absolute() or ".." in Path(named).parts:
                raise UserError(f"{file}: {part} is something else than a file in its own folder or in one below it")
            if not (source := file.parent / named).is_file():
                raise UserError(f"{file}: {part} is {named!r}, but there is no {source}")
            content[part] = _checked(read_yaml(source), str(source))
        elif NAME.fullmatch(named):
            content[part] = current_class_path(named)
        else:
            raise UserError(f"{file}: {part} is neither settings, nor a class, nor a file that ends in .yaml")
    return content


def _checked(content: Any, source: str) -> dict[str, Any]:  # noqa: ANN401  whatever stands there
    """Return a config's content without `based_on`, its class paths today's; refuse what is no config."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{source}: not a config: it has no keys such as model, data, trainer")
    # `${oc.env:NAME}` and its like would read what is no config's business.
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


def option_value(text: str) -> Any:  # noqa: ANN401  any value
    """Return what the value of an option holds: of a file its content."""
    if text.endswith(FILE_ENDINGS) and Path(text).is_file():
        return nested(read_yaml(Path(text)), text)
    try:
        return nested(load_yaml(text, "an option"), "an option")
    except UserError:
        return text  # The parser, which knows what it expects, says what is wrong.
