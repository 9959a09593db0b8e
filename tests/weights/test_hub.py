"""The model hub, as one that runs on this machine: bundles by name, published files, and what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from hub_server import COMMIT, Hub, serving
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.weights.bundle import INDEX, bundle_folder, read_index
from metis_lightning.weights.hub import is_hub_name
from published_layout import write_lora

REPOSITORIES = {
    "amphion/metis": ("metis_base", "metis_tse"),
    "amphion/MaskGCT": ("semantic_codec", "acoustic_codec", "s2a_model"),
}


@pytest.fixture
def hub(tmp_path: Path, tiny_bundle: Path) -> Iterator[Hub]:
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
        yield hub


def call(hub: Hub, tmp_path: Path, code: str, *arguments: str, offline: str = "0") -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that knows no other hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


CLI = "import sys; from metis_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
LOAD = """
import sys
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis
from metis_lightning.weights.bundle import bundle_folder
try:
    print(bundle_folder(sys.argv[1]))
    print(*Metis.from_pretrained(sys.argv[1], "tse").stage1)
except UserError as error:
    sys.exit(str(error))
"""


def imported(hub: Hub, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    statistics = tmp_path / "published/wav2vec2bert_stats.pt"
    options = ("--out", str(tmp_path / "out"), "--tasks", "tse", "--file", f"ssl_features={statistics}")
    return call(hub, tmp_path, CLI, "import", "hub", *options, *more)


def test_an_import_from_the_hub_notes_commit_and_digests(hub: Hub, tmp_path: Path) -> None:
    done = imported(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-NC 4.0" in done.stdout
    source = read_index(tmp_path / "out")["parts"]["tse"]["source"]
    lora = hub.repositories["amphion/metis"] / "metis_tse/metis_tse_lora_32.safetensors"
    assert source["repository"] == "amphion/metis"
    assert source["commit"] == COMMIT
    assert source["files"][lora.name] == sha256_of(lora)
    assert "commit" not in read_index(tmp_path / "out")["parts"]["ssl_features"]["source"]


def test_a_broken_download_goes_on_with_what_was_there(hub: Hub, tmp_path: Path) -> None:
    broken = "metis_base/model.safetensors"
    hub.broken.add(broken)
    done = imported(hub, tmp_path)
    assert done.returncode != 0
    assert not list(tmp_path.glob("out*"))
    there = dict(hub.sent)
    hub.broken.clear()
    done = imported(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    for file in ("metis_tse/metis_tse_lora_32.safetensors", "semantic_codec/model.safetensors"):
        assert hub.sent[file] == 1
    assert broken not in there
    assert hub.sent[broken] == 1


def test_a_revision_that_is_not_there_is_one_line(hub: Hub, tmp_path: Path) -> None:
    done = imported(hub, tmp_path, "--revision", "amphion/metis=nowhere")
    assert done.returncode == 2, done.stderr
    assert "amphion/metis, which is no folder here, on the model hub" in done.stderr.splitlines()[-1]


def test_a_changed_download_is_found_by_the_hubs_digest(hub: Hub, tmp_path: Path) -> None:
    assert imported(hub, tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "out")
    file = next((tmp_path / "cache").rglob("metis_tse_lora_32.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)
    done = imported(hub, tmp_path)
    assert done.returncode == 2
    assert "the hub says" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_a_bundle_is_loaded_by_its_name(hub: Hub, tmp_path: Path, revision: str) -> None:
    done = call(hub, tmp_path, LOAD, f"someone/bundle{revision}")
    assert done.returncode == 0, done.stderr
    folder, tasks = done.stdout.splitlines()
    assert tasks == "tse"
    assert Path(folder).name == COMMIT
    # Nothing but data is fetched.
    assert sorted(os.listdir(folder)) == sorted([INDEX, *(p.name for p in Path(folder).glob("*.safetensors"))])
    again = call(hub, tmp_path, LOAD, f"someone/bundle{revision}", offline="1")
    assert again.stdout == done.stdout, again.stderr


def test_what_is_no_bundle_says_how_to_import(hub: Hub, tmp_path: Path) -> None:
    done = call(hub, tmp_path, LOAD, "amphion/metis")
    assert done.returncode == 1
    assert "import hub --out" in done.stderr
    assert not any(file.endswith(".safetensors") for file in hub.sent)
    done = call(hub, tmp_path, LOAD, "someone/else")
    assert "no such repository" in done.stderr


def test_without_a_network_the_line_says_so() -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        bundle_folder("someone/unheard-of")


@pytest.mark.parametrize(
    "name", ["runs/se/checkpoints", "../up/x", "/abs/path", "a b/c", "nano", "x/", "-x/-y/z", "./a"]
)
def test_paths_are_not_taken_for_hub_names(name: str) -> None:
    assert not is_hub_name(name)
