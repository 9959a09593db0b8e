"""The commands that configs and texts of the repository document."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
PROGRAM = "python -m metis_lightning "


def config_commands() -> list[list[str]]:
    """The arguments of every `fit` command in the comments of the yaml files under configs/ and experiments/."""
    commands = []
    for folder in ("configs", "experiments"):
        for path in sorted((REPOSITORY / folder).rglob("*.yaml")):
            found = re.findall(rf"^# +{PROGRAM}(fit .*)$", path.read_text(), re.MULTILINE)
            assert found, f"{path}: its comment does not say how it is run"
            assert any(str(path.relative_to(REPOSITORY)) in text for text in found), (
                f"{path}: its command names another"
            )
            commands += [shlex.split(text) for text in found]
    return commands


def pages() -> list[Path]:
    """README, then the pages of the docs in the order of the site."""

    def files(nav: Any) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
            yield from files(entry)

    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    return [REPOSITORY / "README.md", *(REPOSITORY / "docs" / name for name in files(nav))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what it needs by its title, and its text."""

    page: str
    language: str
    needs: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines without comments; one that goes on behind a backslash is one."""
        lines = (line.split("  #")[0].strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [line for line in lines if line]


def blocks() -> list[Block]:
    """Every fenced block of README and docs, in the order of the pages."""
    found = []
    for page in pages():
        for language, title, text in re.findall(
            r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', page.read_text(), re.DOTALL | re.MULTILINE
        ):
            found.append(Block(page.name, language, title, text))
    return found


def runnable_commands() -> list[str]:
    """The commands of all sh blocks that need nothing, each once, in the order of the pages."""
    ours = [block for block in blocks() if block.language == "sh" and not block.needs]
    return list(dict.fromkeys(command for block in ours for command in block.commands))
