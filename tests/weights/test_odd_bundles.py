"""Bundles of strangers: one line in bounded time, whatever their index says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from metis_lightning.errors import UserError
from metis_lightning.weights.build import load_base, load_features, load_shared, load_task
from metis_lightning.weights.bundle import ASSETS, BUNDLE_INDEX, read_index, write_index


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The nano bundle's index beside links to its weights."""
    for path in (ASSETS / "nano").iterdir():
        if path.name == BUNDLE_INDEX:
            shutil.copy(path, tmp_path)
        else:
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def change(folder: Path, part: str, **settings: object) -> None:
    """Change what an index says of a part and sign it anew, as a stranger would."""
    index = read_index(folder)
    index["parts"][part]["config"] |= settings
    write_index(folder, index)


ABSURD: list[tuple[str, dict[str, Any], str]] = [
    ("stage1", {"num_layers": 100_000_000}, "'num_layers' of 100000000 is no size"),
    ("stage1", {"num_layers": 10**400}, "'num_layers' of"),
    ("stage1", {"num_layers": 100}, "'num_layers' of 100 is no size|the weights do not fit"),
    ("stage1", {"num_layers": -1}, "'num_layers' of -1"),
    ("stage1", {"num_layers": "six"}, "'num_layers' must be of the type int, found 'six'"),
    ("stage1", {"num_layers": 2.5}, "'num_layers' must be of the type int"),
    ("stage1", {"num_layers": True}, "'num_layers' must be of the type int"),
    ("stage1", {"num_layers": None}, "'num_layers' must be of the type int"),
    ("stage1", {"num_heads": 0}, "'num_heads' of 0"),
    ("stage1", {"hidden_size": 10**9}, "'hidden_size' of 1000000000 "),
    ("stage1", {"hidden_size": [160]}, "'hidden_size' must be of the type int"),
    ("stage1", {"hidden_size": float("nan")}, "'hidden_size' of nan"),
    ("acoustic_codec", {"up_ratios": [2] * 2000}, "'up_ratios' has 2000 values"),
    ("acoustic_codec", {"up_ratios": ["a"]}, "'up_ratios' must be of the type"),
    ("acoustic_codec", {"vocos_num_layers": 10**7}, "'vocos_num_layers' of 10000000 "),
    ("acoustic_codec", {"num_quantizers": 10**7}, "'num_quantizers' of 10000000 "),
    ("acoustic_codec", {"n_fft": 10**12}, "'n_fft' of 1000000000000 "),
    ("ssl_features", {"mels": 7}, "unexpected keyword|unknown"),
    ("omni", {"lora_rank": -3}, "'lora_rank' of -3"),
    ("omni", {"lora_rank": "big"}, "'lora_rank' must be of the type int"),
    ("omni", {"stage1": "all"}, "'stage1' must be of the type dict"),
    ("omni", {"answers": {"a": 1}}, "'answers' must be of the type list"),
    ("omni", {"answers": [1]}, "'answers' must list names"),
]


def load(folder: Path, part: str) -> None:
    if part == "acoustic_codec":
        load_shared(folder, "acoustic_codec")
    elif part == "ssl_features":
        load_features(folder)
    elif part == "stage1":
        load_base(folder)
    else:
        load_task(folder, part)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("part", "settings", "message"), ABSURD)
def test_absurd_sizes_are_one_line_before_anything_is_built(
    bundle: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    change(bundle, part, **settings)
    with pytest.raises(UserError, match=message) as error:
        load(bundle, part)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


MALFORMED: dict[str, Any] = {
    "a part that is a text": {"parts": {"stage1": "weights"}},
    "a part without a configuration": {"parts": {"stage1": {"sha256": "a"}}},
    "a configuration that is a list": {"parts": {"stage1": {"config": [1], "sha256": "a"}}},
    "a digest that is a number": {"parts": {"stage1": {"config": {}, "sha256": 5}}},
    "parts that are a list": {"parts": ["stage1"]},
    "a part's name that is a number": {"parts": {5: {"config": {}}}},
    "a setting's name that is a number": {"parts": {"stage1": {"config": {5: 5}}}},
    "no parts": {"format": 1},
    "a list": [1, 2],
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_indices_are_one_line(bundle: Path, content: object) -> None:
    if isinstance(content, dict):
        write_index(bundle, content)
    else:
        (bundle / BUNDLE_INDEX).write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=BUNDLE_INDEX):
        load_base(bundle)


@pytest.mark.timeout(10)
def test_an_index_that_is_a_bomb_or_a_pipe_takes_no_time(bundle: Path) -> None:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 9)]
    (bundle / BUNDLE_INDEX).write_text("\n".join([*lines, "parts: {stage1: {config: {}, sha256: a}}", "sha256: b"]))
    with pytest.raises(UserError, match="aliases"):
        load_base(bundle)
    (bundle / BUNDLE_INDEX).write_text("parts: " + "[" * 3000)
    with pytest.raises(UserError, match="nest"):
        load_base(bundle)
    (bundle / BUNDLE_INDEX).unlink()
    os.mkfifo(bundle / BUNDLE_INDEX)
    with pytest.raises(UserError, match="not a plain file"):
        load_base(bundle)


def test_settings_that_a_task_needs_are_named_if_they_lack(bundle: Path) -> None:
    index = read_index(bundle)
    del index["parts"]["omni"]["config"]["lora_rank"]
    write_index(bundle, index)
    with pytest.raises(UserError, match="its configuration lacks lora_rank"):
        load_task(bundle, "omni")
