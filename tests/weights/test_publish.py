"""Model cards, and a bundle that goes to the hub and comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

from hub_server import COMMIT, Hub, serving
from metis_lightning.cli.main import main
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, read_index, read_part, write_index
from metis_lightning.weights.export import export
from metis_lightning.weights.export import main as export_main
from metis_lightning.weights.publish import CARD, write_card
from one_batch import fit, make_tse


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({"me/mine": tmp_path / "hub/mine"}) as hub:
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=hub.url, token="a token"))
        here = partial(huggingface_hub.snapshot_download, endpoint=hub.url, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", here)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "mine")
    (tmp_path / "mine/secret.txt").write_text("not a part of the bundle")
    return tmp_path / "mine"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    wer = {"mean": 0.5, "ci95_low": 0.4, "ci95_high": 0.6, "n": 7, "n_failed": 1, "unit": "%"}
    stoi = {"mean": 0.8125, "ci95_low": None, "ci95_high": None, "n": 8, "n_failed": 0, "unit": ""}
    group = {"test_set": "test-unseen", "system": "mine", "n_rows": 8, "metrics": {"WER_tiny.en": wer, "STOI": stoi}}
    (tmp_path / "results").mkdir()
    (tmp_path / "results/summary.json").write_text(json.dumps([group]))
    return tmp_path / "results"


def test_what_is_pushed_comes_back_with_its_card(
    hub: Hub, bundle: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(bundle), "me/mine", "--results", str(results), "--private"]) == 0
    assert f"pushed: me/mine@{COMMIT}" in capsys.readouterr().out
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    there = tmp_path / "hub/mine"
    assert {path.name for path in there.iterdir()} == {path.name for path in bundle.iterdir()} - {"secret.txt"}
    downloaded = bundle_folder("me/mine")
    for name in (BUNDLE_INDEX, "stage1.safetensors", CARD):
        assert sha256_of(downloaded / name) == sha256_of(bundle / name)
    card = (there / CARD).read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "metis-lightning"
    assert "| WER_tiny.en % | 50 | 40 to 60 | 7 | 1 |" in card
    assert "| STOI | 0.812 | – to – | 8 | 0 |" in card
    assert "from_pretrained" in card and "people who agreed" in card


def test_mistakes_of_push(hub: Hub, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for words, expected in (
        ([str(bundle), "them/theirs"], "the hub did not take it"),
        ([str(bundle), "mine"], "a repository is called owner/name"),
        ([str(tmp_path / "empty"), "me/mine"], "no bundle: it has no bundle.yaml"),
        ([str(bundle), "me/mine", "--results", str(tmp_path / "empty")], "no finished run of `evaluate`"),
        ([], "give the bundle's folder and the repository"),
    ):
        assert main(["push", *words]) == 2
        assert expected in capsys.readouterr().err
    (bundle / "stage1.safetensors").write_bytes(b"damaged")
    assert main(["push", str(bundle), "me/mine"]) == 2
    assert "its SHA-256 is" in capsys.readouterr().err
    assert not (tmp_path / "hub/mine").exists()


def test_a_card_that_somebody_wrote_is_kept(bundle: Path, results: Path) -> None:
    (bundle / CARD).write_text("# My own words\n")
    write_card(bundle, {"steps": 3}, [results])
    assert (bundle / CARD).read_text() == "# My own words\n"


def test_the_licence_of_one_part_is_not_that_of_all(bundle: Path) -> None:
    index = read_index(bundle)
    index["parts"]["stage1"]["licence"] = "MIT"
    write_index(bundle, index)
    head = yaml.safe_load(write_card(bundle).read_text().split("---")[1])
    assert sorted(head["license_name"].split("; ")) == ["MIT", "not stated"]


def test_export_writes_a_card_and_the_mean_of_checkpoints(tiny_bundle: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    settings = {"model": {"class_path": "TheModule", "init_args": {"lora_rank": 2}}, "data": {"class_path": "TheData"}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    files = []
    for steps in (1, 2, 3):
        module = make_tse(tiny_bundle, 2)
        files.append(run / f"checkpoints/{steps}.ckpt")
        fit(module, tmp_path, steps).save_checkpoint(files[-1])
    singles = []
    for number, file in enumerate(files):
        export(file, tmp_path / f"single{number}", dtype=torch.float32)
        singles.append(read_part(tmp_path / f"single{number}", "tse").tensors)
    command = [str(files[2]), str(tmp_path / "mean"), "--dtype", "float32", "--average", str(files[0]), str(files[1])]
    assert export_main(command) == 0
    mean = read_part(tmp_path / "mean", "tse").tensors
    assert mean.keys() == singles[0].keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in singles]).mean(dim=0))
    assert any(not torch.equal(value, singles[2][name]) for name, value in mean.items())
    card = (tmp_path / "mean" / CARD).read_text()
    for line in ("- steps: 3", "- module: TheModule", "- LoRA rank: 2", "- weights: mean of 3 checkpoints"):
        assert line in card
    assert "merge" in card
    other = make_tse(tiny_bundle, 4)
    fit(other, tmp_path, 1).save_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="its 'tse' is of another model; average checkpoints of one run"):
        export(files[0], tmp_path / "no", average=[tmp_path / "other.ckpt"])
