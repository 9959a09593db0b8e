"""The paper's scale: every config builds with it, without weights or memory, and has the paper's sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from accelerate import init_empty_weights
from lightning import LightningDataModule
from torch import nn

from documented import REPOSITORY, config_commands
from metis_lightning.errors import UserError
from metis_lightning.lightning_cli import MetisCLI
from metis_lightning.models.condition import GatedAdapter, PlainAdapter
from metis_lightning.models.discriminators import DiscriminatorConfig
from metis_lightning.models.lora import add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.overlays import class_names, merge_configs
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.weights.build import load_base, load_stage2
from metis_lightning.weights.bundle import bundle_folder, read_index

PAPER = "configs/scale/paper.yaml"
STAGE1 = 725.9
"""Millions of parameters without phones."""


def at_paper_scale(command: list[str]) -> list[str]:
    """A documented command with the paper's scale after the files of configs/ and before those of experiments/."""
    files = [file for file in command[2::2] if file != PAPER]
    configs = [file for file in files if file.startswith("configs/")]
    others = [file for file in files if file.startswith("experiments/")]
    return ["fit", *(word for file in (*configs, PAPER, *others) for word in ("-c", file))]


COMMANDS = [list(words) for words in dict.fromkeys(tuple(at_paper_scale(words)) for words in config_commands())]


def build(command: list[str]) -> MetisCLI:
    options = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
    with init_empty_weights(include_buffers=False):
        return MetisCLI([*command[1:], *options], {}, run=False)


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "+".join(Path(c).stem for c in command[2::2]))
def test_a_config_builds_at_paper_scale(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    cli = build(command)
    assert isinstance(cli.model, TrainableModule)
    assert isinstance(cli.datamodule, LightningDataModule)
    assert cli.datamodule.num_workers == 8
    parameters = list(cli.model.parameters())
    assert parameters
    assert all(parameter.is_meta for parameter in parameters)
    assert cli.model.configure_optimizers()


def test_modules_of_the_paper_have_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    pretrain, tse, full, first, codec = (
        build(["fit", "-c", *" -c ".join(files).split(), "-c", PAPER]).model
        for files in (
            ["configs/pretrain.yaml"],
            ["configs/tse_lora.yaml"],
            ["configs/semantic_to_acoustic.yaml"],
            ["configs/semantic_to_acoustic.yaml", "configs/semantic_to_acoustic_1layer.yaml"],
            ["configs/acoustic_codec.yaml", "configs/acoustic_codec_gan.yaml"],
        )
    )
    assert millions(pretrain.model) == pytest.approx(STAGE1, abs=0.05)
    assert millions(tse.model) == pytest.approx(STAGE1 + 15.74 + 18.09, abs=0.05)
    assert tse.condition_dim == 1024
    assert (full.model.config.num_quantizers, first.model.config.num_quantizers) == (12, 1)
    assert tse.configure_optimizers()["optimizer"].defaults["lr"] == 1e-4
    assert codec.adversary.config.discriminators == DiscriminatorConfig()
    assert all(parameter.requires_grad for parameter in codec.codec.parameters())


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: Stage1(Stage1Config()), STAGE1),
        (lambda: Stage1(Stage1Config(use_phone_cond=True)), 746.4),
        (lambda: GatedAdapter(1024, 1536), 15.74),
        (lambda: PlainAdapter(768, 1536), 14.16),
        (lambda: SemanticToAcoustic(SemanticToAcousticConfig()), 353),
    ],
    ids=["stage1", "stage1_phones", "adapter_1024", "adapter_768", "s2a"],
)
def test_parameter_counts(make, count: float) -> None:
    with torch.device("meta"):
        assert millions(make()) == pytest.approx(count, abs=0.05 if count < 800 and count != 353 else 15)


@pytest.mark.parametrize(("rank", "count"), [(4, 2.26), (16, 9.04), (32, 18.09)])
def test_lora_parameter_counts(rank: int, count: float) -> None:
    with torch.device("meta"):
        model = Stage1(Stage1Config())
        add_lora(model, rank)
    trained = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(count, abs=0.005)


def test_sizes_without_weights_are_refused_where_weights_are_needed() -> None:
    folder = bundle_folder("paper")
    for load in (load_base, load_stage2):
        with pytest.raises(UserError, match="sizes only.*name a bundle that has them"):
            load(folder)


def test_the_paper_bundle_names_what_nano_has() -> None:
    paper, nano = (read_index(bundle_folder(name))["parts"] for name in ("paper", "nano"))
    assert set(paper) == set(nano) - {"tse"}
    with init_empty_weights(include_buffers=False):
        model, digest = load_base(bundle_folder("paper"))
    assert (model.config, digest) == (Stage1Config(), "")


def test_every_class_that_the_overlay_speaks_to_exists() -> None:
    for name in yaml.safe_load((REPOSITORY / PAPER).read_text())["by_model"]:
        assert class_names(name)[0] == name


def test_a_class_hears_its_ancestors_and_has_the_last_word(tmp_path: Path) -> None:
    parent, child = (f"metis_lightning.tasks.{name}" for name in ("finetune.FinetuneModule", "tse.TseModule"))
    said = {parent: {"a": {"y": 2, "z": 2}}, child: {"a": {"z": 3}}}
    (tmp_path / "over.yaml").write_text(yaml.safe_dump({"a": {"x": 1, "y": 1}, "by_model": said}))

    def heard(module: str) -> dict:
        words = ["-c", f"model: {{class_path: {module}}}", "-c", str(tmp_path / "over.yaml")]
        return yaml.safe_load(merge_configs(words).args[1])["a"]

    assert heard(child) == {"x": 1, "y": 2, "z": 3}
    assert heard("metis_lightning.tasks.se.SeModule") == {"x": 1, "y": 2, "z": 2}
    assert heard("metis_lightning.tasks.pretrain.PretrainModule") == {"x": 1, "y": 1}


def test_an_overlay_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="give that first"):
        merge_configs(["fit", "-c", PAPER])
