"""Figures of the source: its size, and how it is cut and commented. CI holds them to `LIMITS`.

    python tests/figures.py [FOLDER]        # one folder alone: its figures, without the limits of the whole

Code lines are lines without docstrings, comments and blanks; a function's are counted with its signature.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "metis_lightning"
# Of the command line, and of the commands that Lightning parses.
COMMANDS = {SOURCE / "cli", SOURCE / "trainer"}
SHORT = 3
# Limits of the house: what goes beyond is taken out elsewhere.
MOST_LINES, MOST_FILES, MOST_SHORT = 31_500, 240, 0.25


@dataclass
class Figures:
    """Counts over files; `functions` holds the code lines of each function by where it stands."""

    files: dict[str, int] = field(default_factory=dict)
    folders: Counter[str] = field(default_factory=Counter)
    functions: dict[str, int] = field(default_factory=dict)
    code: int = 0
    comments: int = 0
    unannotated: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return sum(self.files.values())

    @property
    def short_functions(self) -> float:
        """Share of the functions that have at most three lines."""
        return sum(lines <= SHORT for lines in self.functions.values()) / max(1, len(self.functions))

    @property
    def comments_per_100(self) -> float:
        return 100 * self.comments / max(1, self.code)

    def exceeded(self) -> list[str]:
        """Return each limit that the whole source breaks, with where."""
        found = []
        if self.lines > MOST_LINES:
            found.append(f"{self.lines} lines of source; at most {MOST_LINES}")
        if len(self.files) > MOST_FILES:
            found.append(f"{len(self.files)} files; at most {MOST_FILES}")
        found += [f"{name} has {count} modules; at most 20" for name, count in self.folders.items() if count > 20]
        found += [f"{name} has {count} lines; at most 300" for name, count in self.files.items() if count > 300]
        found += [f"{name} has {count} code lines; at most 45" for name, count in self.functions.items() if count > 45]
        if self.short_functions >= MOST_SHORT:
            found.append(
                f"{self.short_functions:.1%} of the functions have at most {SHORT} lines; under {MOST_SHORT:.0%}"
            )
        if not 3 <= self.comments_per_100 <= 7:
            found.append(f"{self.comments_per_100:.1f} comments per 100 code lines; 3 to 7")
        found += [f"{name} is not annotated" for name in self.unannotated]
        found += [f"{name} knows a Namespace" for name in self.namespaces]
        return found


def measure(folder: Path = SOURCE) -> Figures:
    """Return the figures of all Python files below a folder."""
    figures = Figures()
    for path in sorted(folder.rglob("*.py")):
        _add(figures, path)
    return figures


def _add(figures: Figures, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    name, tree, lines = path.relative_to(SOURCE).as_posix(), ast.parse(text), text.splitlines()
    figures.files[name] = len(lines)
    figures.folders[path.parent.relative_to(SOURCE).as_posix()] += 1
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }
    blank = {number for number, line in enumerate(lines, start=1) if not line.strip()}
    plain = comments | blank | _docstrings(tree)
    figures.comments += len(comments)
    figures.code += len(lines) - len(plain)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{name}:{node.lineno} {node.name}"
            figures.functions[where] = len(set(range(node.lineno, node.end_lineno + 1)) - plain)
            if not _is_annotated(node):
                figures.unannotated.append(where)
        elif COMMANDS.isdisjoint(path.parents) and "Namespace" in (getattr(node, "id", ""), getattr(node, "attr", "")):
            figures.namespaces.append(f"{name}:{node.lineno}")


def _docstrings(tree: ast.Module) -> set[int]:
    """Return the numbers of the lines of strings that stand as statements: docstrings, also of attributes."""
    texts = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return {number for text in texts for number in range(text.lineno, text.end_lineno + 1)}


def _is_annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    owned = named[:1] if named and named[0].arg in ("self", "cls") else []
    return function.returns is not None and all(each.annotation is not None for each in named if each not in owned)


def main() -> None:
    """Print the figures, and the limits that are broken."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SOURCE
    figures = measure(folder)
    print(f"{figures.lines} lines in {len(figures.files)} files; {figures.code} lines of code")
    print(f"{len(figures.functions)} functions, {figures.short_functions:.1%} of at most {SHORT} lines")
    print(f"{figures.comments_per_100:.1f} comments per 100 lines of code")
    broken = figures.exceeded()
    print(*broken, sep="\n")
    sys.exit(bool(broken) and folder == SOURCE)


if __name__ == "__main__":
    main()
