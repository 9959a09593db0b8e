"""Files and modules that README, CONTRIBUTING and docs name exist."""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "metis_lightning"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A path below the repository, the package or the tests; `<task>` and `NN` stand for any name.
FILE = re.compile(r"`((?:src/|tests/|bench/|configs/|experiments/|[a-z_]+/)[\w/.]+\.(?:py|yaml|sh|md))`")
FOLDER = re.compile(r"^  (\s*)([a-z_]+)/\s", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    named = [
        name
        for name in FILE.findall(document.read_text())
        if "NN" not in name and not name.startswith(("runs/", "my_"))
    ]
    made = [name for name in named if name.startswith(("evaluation/tables/", "evaluation/results/"))]
    found = [name for name in named if any((base / name).exists() for base in (ROOT, PACKAGE, ROOT / "tests"))]
    assert sorted(set(named) - set(found) - set(made)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    """Files, and headings in them; `make docs` checks the links between pages of the site once more."""
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.is_file() and ROOT in file.parents, target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\s-]", "", each.lower()).strip().replace(" ", "-") for each in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_a_document_names_exist(document: Path) -> None:
    for name in re.findall(r"\bmetis_lightning(?:\.[a-z_]\w*)+", document.read_text()):
        parent, _, last = name.rpartition(".")
        module = importlib.util.find_spec(parent)
        is_module = module.submodule_search_locations is not None and importlib.util.find_spec(name) is not None
        # Or a function of the module.
        assert is_module or re.search(rf"\b{last}\b", Path(module.origin).read_text()), name


def test_pictures_are_what_the_script_draws() -> None:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs/images/draw.py")
    assert spec is not None and spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = draw
    spec.loader.exec_module(draw)
    drawn = draw.pictures()
    assert {path: path.read_text() for path in (ROOT / "docs/images").glob("*.svg")} == drawn
    for svg in drawn.values():
        ElementTree.fromstring(svg)


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_map_has_every_folder_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = text.split("src/metis_lightning/\n", 1)[1].split("```", 1)[0]
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    folders |= {path.name for path in (PACKAGE / "data").iterdir() if (path / "__init__.py").exists()}
    assert {name for _, name in FOLDER.findall(tree)} == folders
