"""Every Python block of the README and the docs runs as it is written, on files made here and tiny weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from documented import REPOSITORY
from every_task import make_every_task_bundle, write_voice
from metis_lightning.pipeline import Metis

TEXTS = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted(REPOSITORY.glob("*/README.md")),
]
BLOCKS = {
    f"{path.relative_to(REPOSITORY)} {number}": block
    for path in TEXTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    return make_every_task_bundle(tiny_bundle, tmp_path_factory.mktemp("documented") / "bundle")


def test_there_are_blocks() -> None:
    assert sum(name.startswith("docs/") for name in BLOCKS) >= 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs_as_written(name: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = BLOCKS[name]
    monkeypatch.chdir(tmp_path)
    for number, source in enumerate(re.findall(r'read_audio\("([^"]+)"', block)):
        write_voice(tmp_path / source, 1.0, seed=number)
    load = Metis.from_pretrained

    def tiny(source: str, task: str | None = None, **options: Any) -> Metis:
        """Whatever weights are named, take tiny ones for the same task."""
        assert isinstance(source, str)
        return load(str(weights), task or "tse", **options)

    monkeypatch.setattr(Metis, "from_pretrained", tiny)
    exec(compile(block, name, "exec"), {"__name__": "documented"})
    for written in re.findall(r'write_wav\("([^"]+)"', block):
        assert (tmp_path / written).is_file()
