"""Configs based on others: each brings its base along, once, and below itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from documented import REPOSITORY
from metis_lightning import cli
from metis_lightning.errors import UserError
from metis_lightning.overlays import resolve_overlays


def write(folder: Path, **contents: dict[str, object]) -> dict[str, str]:
    """Write configs and return their paths by name."""
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {name: str(folder / f"{name}.yaml") for name in contents}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    module = {"class_path": "metis_lightning.tasks.tse.TseModule"}
    return write(
        tmp_path,
        base={"model": module, "seed_everything": 1},
        middle={"based_on": "base.yaml", "seed_everything": 2},
        top={"based_on": "middle.yaml", "seed_everything": 3},
        other={"seed_everything": 4},
        scale={"by_model": {"metis_lightning.tasks.finetune.FinetuneModule": {"seed_everything": 5}}},
        round={"based_on": "round.yaml", "seed_everything": 6},
        lost={"based_on": "nowhere.yaml"},
    )


def seeds(args: list[str]) -> list[int]:
    """What each config of the resolved arguments says, in the order in which they are laid."""
    resolved = resolve_overlays(args)
    values = [value for option, value in zip(resolved, resolved[1:], strict=False) if option == "-c"]
    texts = [Path(value).read_text() if value.endswith(".yaml") else value for value in values]
    assert not any("based_on" in text for text in texts)
    return [yaml.safe_load(text)["seed_everything"] for text in texts]


def test_bases_come_below(files: dict[str, str]) -> None:
    assert seeds(["-c", files["top"]]) == [1, 2, 3]
    assert seeds([f"--config={files['top']}", "-c", files["other"]])[-1] == 4


def test_a_base_that_was_given_is_not_laid_again(files: dict[str, str]) -> None:
    assert seeds(["-c", files["base"], "-c", files["other"], "-c", files["middle"]]) == [1, 4, 2]
    assert seeds(["-c", files["round"]]) == [6]


def test_a_base_names_the_module_that_an_overlay_speaks_to(files: dict[str, str]) -> None:
    assert seeds(["-c", files["top"], "-c", files["scale"]]) == [1, 2, 3, 5]


def test_other_arguments_stay(files: dict[str, str]) -> None:
    resolved = resolve_overlays(["--trainer.max_steps", "3", "-c", files["middle"], "--data.seed=1"])
    assert resolved[:4] == ["--trainer.max_steps", "3", "-c", files["base"]]
    assert resolved[-1] == "--data.seed=1"
    assert resolve_overlays(["-c", files["other"]]) == ["-c", files["other"]]


def test_a_missing_base_is_named(files: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"lost\.yaml: it is based_on 'nowhere\.yaml', but there is no .*nowhere\.yaml"):
        resolve_overlays(["-c", files["lost"]])


def test_a_misspelt_key_is_found_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"based_on: {REPOSITORY / 'configs' / 'tse_lora.yaml'}\ntrainer:\n  max_stps: 3\n")
    assert cli.main(["fit", "-c", str(config)]) == 2
    assert f"unknown key 'trainer.max_stps' ({config}:3)" in capsys.readouterr().err
