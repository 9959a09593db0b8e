"""The commands that configs and texts of the repository document."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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


def readme_commands() -> list[str]:
    """Every line of the README's sh blocks, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]
