"""The model hub, as one that runs on this machine: bundles by name, published files, and what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest

pytest.importorskip("transformers")

from hub_server import COMMIT, Hub, serving
from metis_lightning.cli.main import main
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.pipeline import Metis
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, is_hub_name, read_index
from published_layout import write_lora

REPOSITORIES = {
    "amphion/metis": ("metis_base", "metis_tse"),
    "amphion/MaskGCT": ("semantic_codec", "acoustic_codec", "s2a_model"),
}


@pytest.fixture
def hub(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve the published repositories, with the parity vectors' LoRA, and a bundle."""
    published = write_lora(tmp_path / "published")
    folders = {"someone/bundle": tmp_path / "someone", "facebook/w2v-bert-2.0": published / "w2v-bert-2.0"}
    shutil.copytree(tiny_bundle, folders["someone/bundle"])
    (folders["someone/bundle"] / "setup.py").write_text("raise SystemExit")
    for name, parts in REPOSITORIES.items():
        folders[name] = tmp_path / "repositories" / name
        for part in parts:
            shutil.copytree(published / part, folders[name] / part)
    with serving(folders) as hub:
        here = partial(huggingface_hub.snapshot_download, endpoint=hub.url, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", here)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def imported(tmp_path: Path, *more: str) -> int:
    statistics = tmp_path / "published/wav2vec2bert_stats.pt"
    options = ("--out", str(tmp_path / "out"), "--tasks", "tse", "--file", f"ssl_features={statistics}")
    return main(["import", "hub", *options, *more])


def test_an_import_from_the_hub_notes_commit_and_digests(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path) == 0
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    source = read_index(tmp_path / "out")["parts"]["tse"]["source"]
    lora = hub.repositories["amphion/metis"] / "metis_tse/metis_tse_lora_32.safetensors"
    assert source["repository"] == "amphion/metis"
    assert source["commit"] == COMMIT
    assert source["files"][lora.name] == sha256_of(lora)
    assert "commit" not in read_index(tmp_path / "out")["parts"]["ssl_features"]["source"]


def test_a_broken_download_goes_on_with_what_was_there(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "metis_base/model.safetensors"
    hub.broken.add(broken)
    assert imported(tmp_path) == 2
    assert "run the command again" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    hub.broken.clear()
    assert imported(tmp_path) == 0
    assert hub.sent[broken] == 1
    assert hub.sent["semantic_codec/model.safetensors"] == 1


def test_a_revision_that_is_not_there_is_one_line(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(tmp_path, "--revision", "amphion/metis=nowhere") == 2
    assert "amphion/metis, which is no folder here, on the model hub" in capsys.readouterr().err.splitlines()[-1]


def test_a_changed_download_is_found_by_the_hubs_digest(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path) == 0
    shutil.rmtree(tmp_path / "out")
    file = next((tmp_path / "cache").rglob("metis_tse_lora_32.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)
    assert imported(tmp_path) == 2
    assert "the hub says" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_a_bundle_is_loaded_by_its_name(hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"someone/bundle{revision}"
    folder = bundle_folder(name)
    assert folder.name == COMMIT
    assert set(Metis.from_pretrained(name, "tse").stage1) == {"tse"}
    # Nothing but data is fetched.
    assert sorted(os.listdir(folder)) == sorted([BUNDLE_INDEX, *(path.name for path in folder.glob("*.safetensors"))])
    asked = hub.sent.total()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert bundle_folder(name) == folder
    assert hub.sent.total() == asked


def test_what_is_no_bundle_says_how_to_import(hub: Hub) -> None:
    with pytest.raises(UserError, match="import hub --out"):
        bundle_folder("amphion/metis")
    assert not any(file.endswith(".safetensors") for file in hub.sent)
    with pytest.raises(UserError, match="no such repository"):
        bundle_folder("someone/else")


def test_without_a_network_the_line_says_so() -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        bundle_folder("someone/unheard-of")


@pytest.mark.parametrize(
    "name", ["runs/se/checkpoints", "../up/x", "/abs/path", "a b/c", "nano", "x/", "-x/-y/z", "./a"]
)
def test_paths_are_not_taken_for_hub_names(name: str) -> None:
    assert not is_hub_name(name)
