"""From a corpus as it lies on disk to a trained step: prepare, store tokens, fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from documented import REPOSITORY
from fake_corpora import emilia_members, librimix_storage, put, tar_bytes
from metis_lightning.cli import main as cli

RUN = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=2"]


def config(*names: str) -> list[str]:
    return [word for name in names for word in ("-c", str(REPOSITORY / "configs" / f"{name}.yaml"))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metis_lightning"])
    return tmp_path


def steps_trained() -> int:
    (checkpoint,) = Path("runs").rglob("last.ckpt")
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def test_stage_2_learns_emilia_from_stored_tokens(folder: Path, tiny_bundle: Path, capsys) -> None:
    for number in range(4):
        members = emilia_members(f"EN_B0000{number}_S00000", range(2), 1.2)
        put(folder / f"Emilia/EN/EN-B00000{number}.tar", tar_bytes(members))
    assert cli.main(["prepare", "emilia", "--root", "Emilia", "--out", "emilia.jsonl"]) == 0
    sizes = {"num_quantizers": 3, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "codebook_size": 32}
    stage2 = [f"--model.stage2.{name}={value}" for name, value in (sizes | {"semantic_codebook_size": 32}).items()]
    run = [*config("semantic_to_acoustic", "data/emilia"), *RUN, f"--model.tokenizer={tiny_bundle}", *stage2]
    run += ["--data.root=Emilia", "--data.batch_seconds=4", "--data.speeds=[1.0]"]
    assert cli.main(["prepare", "tokens", "--out", "tokens", *run]) == 0
    assert "8 utterances" in capsys.readouterr().out
    # Where a recipe needs no sound, the archives are not opened any more.
    for tar in folder.rglob("*.tar"):
        tar.rename(tar.with_suffix(".moved"))
    fit = ["fit", *run, "--data.tokens=tokens", *STEPS]
    assert cli.main(fit) == 0
    assert steps_trained() == 2


def test_extraction_learns_mixtures_that_are_made_when_read(folder: Path, tiny_bundle: Path) -> None:
    storage = librimix_storage(folder / "storage")
    made = ["--metadata", str(storage / "libri2mix_test-clean.csv"), "--mix", "mix_both"]
    assert cli.main(["prepare", "librimix", "--root", str(storage), *made, "--out", "all.jsonl"]) == 0
    # The published test list stands for a training list, whose only difference is its name.
    lines = Path("all.jsonl").read_text().replace('"split": "test"', '"split": "train"')
    Path("librimix.jsonl").write_text(lines)
    run = [*config("tse_lora", "data/librimix"), *RUN, *STEPS, f"--model.base={tiny_bundle}", "--model.lora_rank=2"]
    assert cli.main(["fit", *run, f"--data.root={storage}", "--data.batch_seconds=10"]) == 0
    assert steps_trained() == 2
