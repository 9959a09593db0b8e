"""Imports go one way: a package may import what stands to its left in `LAYERS`, never to its right."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import metis_lightning

PACKAGE = Path(metis_lightning.__file__).parent

# What may not import each other stands side by side.
LAYERS = (
    {"errors", "child_processes", "progress", "renamed_classes", "_torchaudio"},
    {"files", "options", "safe_parsing", "state_dicts", "texts"},
    {"types"},
    {"data"},
    {"tokens"},
    {"models"},
    {"sampling"},
    {"task_table"},
    {"task_methods"},
    {"weights"},
    {"pipeline"},
    {"metrics"},
    {"callbacks"},
    {"tasks"},
    {"evaluate"},
    {"generate"},
    {"trainer"},
    {"bench"},
    {"doctor"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
USES_TASKS = {"tasks", "evaluate", "trainer", "bench", "doctor", "cli"}


def layer_of(module: str) -> str:
    """Return the part of a module's name that has a rank; the package's own `__init__` is the empty string."""
    return module.split(".")[1] if "." in module else ""


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Yield the full name of everything that a module's source imports, also inside functions."""
    parts = module.split(".")
    base = parts if is_package else parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from ..x import y` names x relative to the folder that holds the module.
            start = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return the imports of a module that break the rules."""
    here = layer_of(module)
    return [name for name in imports(source, module, is_package) if not _is_allowed(here, name)]


def _is_allowed(here: str, name: str) -> bool:
    root = name.split(".")[0]
    if root in LIGHTNING:
        return here == "data" or RANK.get(here, -1) > RANK["pipeline"]
    if root != "metis_lightning" or name == "metis_lightning.__version__":
        return True
    there = layer_of(name)
    if here == "":
        return there == "_torchaudio"
    if there == "_torchaudio" or (there == "tasks" and here not in USES_TASKS):
        return False
    return here == there or RANK[there] < RANK[here]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    is_package = path.name == "__init__.py"
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = ".".join(parts[:-1] if is_package else parts)
    assert layer_of(module) in {"", *RANK}, f"{module} has no place in LAYERS"
    assert violations(path.read_text(encoding="utf-8"), module, is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metis_lightning.models.backbone", "from metis_lightning.pipeline import Metis"),
        ("metis_lightning.models.backbone", "from metis_lightning import pipeline"),
        ("metis_lightning.models.backbone", "from ..sampling import schedule"),
        ("metis_lightning.models.backbone", "def f():\n    import lightning.pytorch"),
        ("metis_lightning.pipeline", "from lightning import Trainer"),
        ("metis_lightning.pipeline", "import metis_lightning.metrics.suite"),
        ("metis_lightning.files", "from metis_lightning.types import Trial"),
        ("metis_lightning.callbacks.ema", "from metis_lightning.tasks.base import Base"),
        ("metis_lightning.generate.main", "from metis_lightning.tasks.base import Base"),
        ("metis_lightning.data.media.audio", "from metis_lightning._torchaudio import x"),
        ("metis_lightning", "from metis_lightning.types import Trial"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metis_lightning.models.backbone", "from metis_lightning.types import Trial\nimport torch"),
        ("metis_lightning.models.backbone", "from . import masking\nfrom .masking import mask"),
        ("metis_lightning.data.batches.module", "from lightning import LightningDataModule"),
        ("metis_lightning.tasks.conditioned", "import lightning\nfrom metis_lightning.callbacks.ema import Ema"),
        ("metis_lightning.evaluate.run.main", "from metis_lightning.tasks.base import Base"),
    ],
)
def test_a_right_import_is_let_through(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_inference_does_not_load_lightning() -> None:
    code = f"import sys, metis_lightning.pipeline; print(*({LIGHTNING!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_contributing_names_the_packages_in_this_order() -> None:
    text = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sentence = text.split("Data flows one way, and so do imports:", 1)[1].split("A package imports", 1)[0]
    named = [name for name in re.findall(r"`(\w+)`", sentence) if (PACKAGE / name).is_dir() or name == "pipeline"]
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(named) == packages | {"pipeline"}
    assert named == sorted(named, key=RANK.__getitem__)


# What stands left of another may not import it.
ROOMS = {
    "data": ("media", "manifest", "recipes", "token_store", "batches", "corpora"),
    "evaluate": ("html", "results", "tables", "compare", "run"),
}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_of_a_package_import_one_way(package: str) -> None:
    rooms = ROOMS[package]
    assert set(rooms) == {path.name for path in (PACKAGE / package).iterdir() if (path / "__init__.py").exists()}
    upwards = []
    for path in sorted((PACKAGE / package).rglob("*/*.py")):
        here = path.relative_to(PACKAGE / package).parts[0]
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for name in imports(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"):
            there = name.removeprefix(f"metis_lightning.{package}.").split(".")[0]
            if there in rooms and name.startswith(f"metis_lightning.{package}.") and here in rooms:
                upwards += [(module, name)] if rooms.index(there) > rooms.index(here) else []
    assert upwards == []
