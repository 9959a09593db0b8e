"""The Makefile's help."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("args", [(), ("help",)])
def test_help_lists_every_target(args: tuple[str, ...]) -> None:
    done = subprocess.run(["make", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    listed = re.findall(r"^  (\w+)  +\w", done.stdout, re.MULTILINE)
    assert listed == targets[1].split()
