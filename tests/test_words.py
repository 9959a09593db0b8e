"""One word for one thing: no class twice, no constant twice, none of the names that the glossary replaces."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import metis_lightning

PACKAGE = Path(metis_lightning.__file__).parent
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What was said in the place of the field's words; CONTRIBUTING's glossary has those.
REPLACED = set(
    """
    heard hears answering rests verb verbs Verb each_row Each Maker Made Takes TAKES Beside Unscored Judgement said_to
    strangers gathered OddAudio Unstored SilentCorpus talking_face talking_text own_video
    two_pass our_sections OurColumn HeardModule HeardRecipe Heard Answering load_answering in_processes
    """.split()  # noqa: SIM905  a list of words reads better
)


def names(tree: ast.Module) -> Iterator[str]:
    """Yield every name that a module gives to something: classes, functions, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the name and the expression of each constant of a module whose value is more than a word or a digit."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            (target, *_) = node.targets if isinstance(node, ast.Assign) else [node.target]
            text = ast.unparse(node.value)
            if isinstance(target, ast.Name) and len(target.id.strip("_")) > 1 and target.id.isupper():
                yield target.id, text


def test_a_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_constant_stands_in_one_place() -> None:
    by_name, by_value = defaultdict(set), defaultdict(set)
    for path, tree in TREES.items():
        for name, value in constants(tree):
            if not name.startswith("_"):
                by_name[name].add(path)
            if len(value) > 8:
                by_value[value].add(path)
    assert {name: sorted(where) for name, where in by_name.items() if len(where) > 1} == {}
    assert {value: sorted(where) for value, where in by_value.items() if len(where) > 1} == {}


def test_names_are_words_of_the_field() -> None:
    modules = {part for path in TREES for part in path.removesuffix(".py").split("/")}
    used = {name: path for path, tree in TREES.items() for name in names(tree)}
    assert sorted(REPLACED & modules) == []
    assert {name: path for name, path in used.items() if name in REPLACED} == {}


def test_modules_and_packages_say_what_they_are() -> None:
    questions = ("What ", "Whether ", "Where ", "Which ", "How ", "Why ")
    opening = {path: ast.get_docstring(tree) or "" for path, tree in TREES.items()}
    assert [path for path, text in opening.items() if not text or text.startswith(questions)] == []
