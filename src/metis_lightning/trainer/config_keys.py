"""Finds misspelt keys, classes and numbers in the configs of a trainer's command within a second.

The sources of the classes that a config names are read, not imported: torch and Lightning take many seconds. What
cannot be told in this way is left to the parser, which runs afterwards.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.trainer.config_files import BY_MODEL, option_value, read_configs
from metis_lightning.trainer.merging import ARGUMENTS, CLASS, MISSING, as_class
from metis_lightning.trainer.overlays import options_in

_TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
_TOP = (
    "model",
    "data",
    "trainer",
    "seed_everything",
    "ckpt_path",
    "resume",
    "float32_matmul_precision",
    "print_config",
)
_NUMBERS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_CLASS_PATH = re.compile(r"(\w+\.)+[A-Z]\w*")
_SPECIAL_CHECKPOINTS = ("last", "best", "hpc")

# Key by key, without `init_args`.
Place = tuple[str, ...]


def check_config(args: Sequence[str]) -> None:
    """Look through the configs and options of a trainer's command. A `UserError` for the first mistake."""
    words, layers, files = read_configs(args[1:])
    options = [(key, option_value(value)) for key, value, _ in options_in(words)]
    classes: dict[Place, set[str]] = {("trainer",): {_TRAINER}}
    said = [(layer.content, layer.name) for layer in layers]
    for key, value in options:
        parts = [part for part in key.split(".") if part not in (ARGUMENTS, CLASS)]
        # `--trainer.logger CLASS` names a class without saying so.
        if isinstance(value, str) and _CLASS_PATH.fullmatch(value):
            classes.setdefault(tuple(parts), set()).add(value)
        for part in reversed(parts):
            value = {part: value}
        said.append((value, f"--{key}"))
    for content, _ in said:
        _collect({name: value for name, value in content.items() if name != BY_MODEL}, (), classes)
    for content, name in said:
        for key, value in content.items():
            if key in ("model", "data", "trainer"):
                # The place of an option is the command line.
                _check(value, (key,), classes, () if name.startswith("--") else files)
            elif key not in (*_TOP, BY_MODEL) and (guess := get_close_matches(key, _TOP, n=1, cutoff=0.75)):
                where = "" if name.startswith("--") else place_of(str(key), files)
                raise UserError(f"unknown key {key!r}{where}: did you mean {guess[0]!r}?")
    if not any(word.startswith("--print_config") for word in words):
        _check_files([content for content, _ in said])


def _check_files(contents: Iterable[dict[str, Any]]) -> None:
    """Raise a `UserError` for a checkpoint or a manifest, as named last, that is not there."""
    checkpoint = manifest = None
    for content in contents:
        checkpoint = content.get("ckpt_path", checkpoint)
        data = as_class(content.get("data"), beside={CLASS: ""})
        if isinstance(data, dict):
            manifest = (data.get(ARGUMENTS) or {}).get("manifest", manifest)
    path = str(checkpoint or "last")
    is_file = path not in _SPECIAL_CHECKPOINTS and "://" not in path and not path.startswith("registry")
    if is_file and not Path(path).exists():
        raise UserError(f"checkpoint {path} does not exist; check --ckpt_path")
    if isinstance(manifest, str) and manifest != MISSING and "${" not in manifest and not Path(manifest).is_file():
        cure = "`prepare` makes it of a corpus and `new` of your own folder; name another with --data.manifest"
        raise UserError(f"{manifest}: no such manifest; {cure}")


def _collect(value: Any, place: Place, classes: dict[Place, set[str]]) -> None:  # noqa: ANN401  any value
    """Note every class that is named at a place."""
    full = as_class(value, beside={CLASS: ""}) if place and place[-1] in ("model", "data") else value
    if not isinstance(full, dict):
        return
    if isinstance(path := full.get(CLASS), str):
        classes.setdefault(place, set()).add(path)
    for key, inner in full.items():
        if key in (ARGUMENTS, CLASS):
            _collect_arguments(inner, place, classes)
        else:
            _collect(inner, (*place, str(key).rstrip("+")), classes)


def _collect_arguments(arguments: Any, place: Place, classes: dict[Place, set[str]]) -> None:  # noqa: ANN401
    for key, inner in arguments.items() if isinstance(arguments, dict) else ():
        _collect(inner, (*place, str(key).rstrip("+")), classes)


def _check(value: Any, place: Place, classes: dict[Place, set[str]], files: Sequence[Path]) -> None:  # noqa: ANN401
    """Check a class's value against the arguments of the classes that are named at its place."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and CLASS in item:
                _check(item, place, classes | {place: {str(item[CLASS])}}, files)
        return
    known = _known(place, classes, files)
    if known is None or not isinstance(value, dict) or "dict_kwargs" in value:
        return
    is_trainer = place == ("trainer",)
    inner = value if is_trainer or not value.keys() & {ARGUMENTS, CLASS} else value.get(ARGUMENTS)
    for key, given in inner.items() if isinstance(inner, dict) else ():
        name = str(key).rstrip("+")
        if name not in known:
            above = "trainer." if is_trainer else ""
            owner = "" if is_trainer else f" of {', '.join(sorted(classes[place]))}"
            where = place_of(f"{above}{name}", files)
            raise UserError(f"unknown key {above + name!r}{owner}{where}{_nearest(name, known, above)}")
        wanted = _NUMBERS.get(known[name].removesuffix(" | None"))
        if wanted and isinstance(given, str) and given != MISSING and "${" not in given and not _fits(given, wanted):
            raise UserError(f"{'.'.join((*place, name))}{place_of(name, files)}: must be {wanted}, not {given!r}")
        _check(given, (*place, name), classes, files)


def _known(place: Place, classes: dict[Place, set[str]], files: Sequence[Path]) -> dict[str, str] | None:
    """Return the arguments of all classes that are named at a place, annotated; None if they cannot be told."""
    paths, known = sorted(classes.get(place, ())), dict[str, str]()
    for path in paths:
        source = _source(path)
        if source is None and path.startswith("metis_lightning.") and (hint := _class_hint(path)) is not None:
            raise UserError(f"{'.'.join(place)}: there is no class {path!r}{place_of(path, files)}{hint}")
        if source is None or (taken := source.arguments()) is None:
            return None
        known |= taken
    return known if paths else None


def _fits(text: str, wanted: str) -> bool:
    if wanted == _NUMBERS["bool"]:
        return text.lower() in ("true", "false", "yes", "no")
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "none")
    return True


def _nearest(name: str, known: Iterable[str], above: str = "") -> str:
    """Return the nearest name as a question, with the key `above` it; of few names all of them, where none is near."""
    names = sorted(known)
    if guess := get_close_matches(name, names, n=1):
        return f": did you mean {above + guess[0]!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= 12 else "; --print_config shows all"


def _class_hint(path: str) -> str | None:
    """Return the nearest name for a class of this package that is not there; None if the module is not, either."""
    module, _, name = path.rpartition(".")
    file = _file_of(module)
    if file is None:
        return "; check its module"
    names = [node.name for node in _parsed(file).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    imported = {
        alias.asname or alias.name
        for node in _parsed(file).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # A name that the module imports, or makes in another way, is the parser's to judge.
    return None if name in imported else _nearest(name, names)


def place_of(key: str, files: Sequence[Path]) -> str:
    """Return ` (file:line)` of a key in the first config file that has it; empty if none has."""
    for file in files:
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        number: int | None = None
        for part in key.split(".") if not key.startswith("metis_lightning.") else [key]:
            # Each part stands below the one before. A key of a class's arguments is reported without its parents, so
            # the search does not start at the left margin.
            pattern = re.compile(rf"(.*[\s{{,\"'])?(- )?{re.escape(part)}[\"']?\s*(:|$|[,}}])")
            number = next((number for number, line in lines if pattern.match(line)), None)
        if number is not None:
            return f" ({file}:{number})"
    return ""


@dataclass(frozen=True)
class _Source:
    """A class in its file, found by reading."""

    file: Path
    module: str
    node: ast.ClassDef

    def arguments(self) -> dict[str, str] | None:
        """Return the arguments of `__init__` with their annotations; None if they cannot be told."""
        own = next((n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if own is None:
            fields = {
                item.target.id: ast.unparse(item.annotation)
                for item in self.node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            is_record = any("dataclass" in ast.unparse(each) for each in self.node.decorator_list)
            above = self._above()
            return None if above is None else above | (fields if is_record else {})
        given = own.args
        named = [*given.posonlyargs[1:], *given.args[1 - bool(given.posonlyargs) :], *given.kwonlyargs]
        arguments = {arg.arg: "" if arg.annotation is None else ast.unparse(arg.annotation) for arg in named}
        if given.kwarg is None:
            return arguments
        # What is not handed to the classes above goes where it cannot be followed, as a logger's to its writer.
        handed = f"**{given.kwarg.arg}"
        calls = [ast.unparse(node) for node in ast.walk(own) if isinstance(node, ast.Call)]
        above = self._above() if any(c.startswith("super().__init__(") and handed in c for c in calls) else None
        return None if above is None else above | arguments

    def _above(self) -> dict[str, str] | None:
        """Return the arguments of the first base that has a source; None if a base has none."""
        found: dict[str, str] = {}
        for base in self.node.bases:
            name = ast.unparse(base).partition("[")[0]
            if name in ("ABC", "object", "Protocol", "Generic", "nn.Module", "lightning.LightningModule"):
                continue
            source = _in_module(self.file, self.module, name)
            if source is None or (taken := source.arguments()) is None:
                return None
            found = taken | found
        return found


def _source(path: str) -> _Source | None:
    module, _, name = path.rpartition(".")
    file = _file_of(module)
    return None if file is None else _in_module(file, module, name)


@lru_cache(256)
def _in_module(file: Path, module: str, name: str) -> _Source | None:
    """Return a class that a module defines or imports from another module."""
    tree = _parsed(file)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _Source(file, module, node)
    for node in (each for each in tree.body if isinstance(each, ast.ImportFrom)):
        original = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
        if original is None:
            continue
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        above = package.rsplit(".", node.level - 1)[0] if node.level else ""
        there = ".".join(filter(None, (above, node.module or "")))
        other = _file_of(there)
        return None if other is None else _in_module(other, there, original)
    return None


@lru_cache(256)
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _file_of(module: str) -> Path | None:
    """Return the source of a module, which is not imported: only the place of its package is asked for."""
    top, *parts = module.split(".")
    if not module or (spec := find_spec(top)) is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)
