"""The paper's scale: every config builds with it, without weights or memory, and has the paper's sizes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import init_empty_weights
from torch import nn

from documented import REPOSITORY, config_commands
from metis_lightning.cli import main as command_line
from metis_lightning.data.batches.module import PreparedDataModule
from metis_lightning.data.recipes.l2s import EnvelopeRecipe
from metis_lightning.data.recipes.recipe import OmniRecipe
from metis_lightning.data.recipes.se import Corruptions, SeRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.data.recipes.vc import VcRecipe, WorldConverter
from metis_lightning.errors import UserError
from metis_lightning.models.discriminators import DiscriminatorConfig
from metis_lightning.models.lora import add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, PlainAdapter, Stage1, Stage1Config
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import MetisCLI
from metis_lightning.trainer.overlays import class_names, merge_configs
from metis_lightning.weights.build import load_base, load_stage2
from metis_lightning.weights.bundle import bundle_folder, read_index
from said import disagreements

PAPER = "configs/scale/paper.yaml"
STAGE1 = 725.9
"""Millions of parameters without phones."""


def at_paper_scale(command: list[str]) -> list[str]:
    """A documented command with the paper's scale behind the config or a row of experiments/, before a corpus."""
    files = [file for file in command[2::2] if file.endswith(".yaml") and file != PAPER]
    above = [file for file in files if file.startswith(("configs/data/", "experiments/nano/"))]
    configs = [file for file in files if file not in above]
    return ["fit", *(word for file in (*configs, PAPER, *above) for word in ("-c", file))]


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
    parameters = list(cli.model.parameters())
    assert parameters
    assert all(parameter.is_meta for parameter in parameters)
    assert cli.model.configure_optimizers()
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    assert disagreements(command[2::2], config, ("trainer.accelerator", "trainer.devices")) == {}
    if not any(file.startswith(("configs/data/", "experiments/nano/")) for file in command):
        check_is_the_papers(cli, config)


def check_is_the_papers(cli: MetisCLI, config: dict) -> None:
    """Nothing of nano is left, a run is longer than its warm-up, and a save is one file and seldom."""
    data, arguments = cli.datamodule, config["model"]["init_args"]
    assert type(data) is PreparedDataModule
    assert (data.num_workers, data.max_seconds, data.speeds, data.cache) == (8, 30.0, (1.0,), False)
    schedules = [arguments["lr_scheduler"]]
    if isinstance(cli.model, AcousticCodecModule):
        schedules.append(arguments["adversarial"]["lr_scheduler"])
        off = ("loudness_weight", "linear_weight", "continuous_steps", "decoder_only", "start_from")
        assert not any(arguments[name] for name in off)
    for schedule in schedules:
        assert schedule["class_path"] == "metis_lightning.tasks.optimization.WarmupInverseSqrt"
        assert cli.trainer.max_steps > 2 * schedule["init_args"]["warmup_steps"] > 0
    (saves,) = cli.trainer.checkpoint_callbacks
    assert saves._train_time_interval == timedelta(minutes=30)
    assert saves._every_n_train_steps == 0
    assert saves.save_last == "link"
    assert config["trainer"]["precision"] == "bf16-mixed"
    recipes = data.recipe.recipes if isinstance(data.recipe, OmniRecipe) else [data.recipe]
    assert data.val_recipe is data.recipe
    for recipe in recipes:
        assert not isinstance(recipe, EnvelopeRecipe)
        if isinstance(recipe, TseRecipe | VcRecipe):
            assert (recipe.prompts.enrollment, recipe.prompts.max_seconds) == ("prefix", 12.0)
        if isinstance(recipe, TseRecipe):
            assert recipe.snr_range is None
        if isinstance(recipe, SeRecipe):
            assert recipe.corruptions == Corruptions()
            assert recipe.prompts is None


def test_the_codecs_and_stage_2_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    semantic, acoustic, decoder, full, first = (
        build(["fit", "-c", f"configs/{name}.yaml", "-c", PAPER])
        for name in (
            "semantic_codec",
            "acoustic_codec",
            "acoustic_codec_gan",
            "semantic_to_acoustic",
            "semantic_to_acoustic_1layer",
        )
    )
    for cli in (acoustic, decoder):
        # MaskGCT, section 3.2.4.
        terms = {"mel": 10, "codebook": 1, "commitment": 0.25, "adversarial": 2, "feature": 2}
        assert {name: weight for name, weight in cli.model.weights.items() if weight} == terms
        assert cli.model.adversary.config.from_step == 0
        assert cli.model.has_unused_parameters is False
        assert (cli.datamodule.recipe.limit, cli.datamodule.recipe.is_fixed) == (1.0, True)
        assert (cli.datamodule.batch_seconds, cli.trainer.max_steps) == (32, 400_000)
    assert (semantic.model.codebook_weight, semantic.model.commitment_weight) == (1.0, 0.15)
    assert (semantic.datamodule.recipe.limit, semantic.datamodule.recipe.is_fixed) == (3.0, True)
    assert semantic.trainer.max_steps == 400_000
    for cli in (full, first):
        assert cli.trainer.max_steps == 1_200_000
        assert cli.datamodule.recipe.limit is None


@pytest.mark.parametrize(
    ("config", "row", "options"),
    [
        ("tse_lora", "table_03/tse_lora_4", ["--data.manifest", "--data.root"]),
        (
            "se",
            "table_04/se_finetune",
            ["--data.recipe.noise_root", "--data.recipe.rir_root", "--data.manifest", "--data.root"],
        ),
        ("vc_lora", "table_02/vc_lora_16", ["--data.recipe.converter", "--data.manifest", "--data.root"]),
        (
            "omni",
            "table_06/omni_finetune",
            [
                "--data.recipe.tasks.1.recipe.converter",
                "--data.recipe.tasks.3.recipe.noise_root",
                "--data.recipe.tasks.3.recipe.rir_root",
                "--data.manifest",
                "--data.root",
            ],
        ),
    ],
)
def test_a_run_asks_for_what_it_needs_before_anything_else(
    config: str, row: str, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = ["fit", "-c", f"experiments/{row}.yaml", "-c", PAPER]
    longer = ["fit", "-c", f"configs/{config}.yaml", "-c", PAPER, "-c", f"experiments/{row}.yaml"]
    assert merge_configs(longer).args == merge_configs(words).args
    # A class of this file's stands for a converter; that a manifest is there is looked at before.
    stands = {"converter": "test_scale.Parrot", "manifest": str(REPOSITORY / "pyproject.toml")}
    values = [stands.get(option.rpartition(".")[2], "/nowhere") for option in options]
    given = [word for pair in zip(options, values, strict=True) for word in pair]

    def said(*more: str) -> str:
        assert command_line.main([*words, *more]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert (
        said() == f"metis-lightning: error: the configs leave open what must be given: {' VALUE, '.join(options)} VALUE"
    )
    assert f"{options[0]} VALUE" in said(*given[2:])
    assert "sizes only" in said(*given)
    assert merge_configs([*words, *given]).missing == []


class Parrot(WorldConverter):
    """Some converter."""


def test_a_value_that_is_open_may_be_given_as_a_part_of_another(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text("data:\n  init_args:\n    root: ???\n    recipe: {a: [1, {b: '???'}]}\n")
    words = ["fit", "-c", str(tmp_path / "open.yaml")]
    assert merge_configs(words).missing == ["--data.root", "--data.recipe.a.1.b"]
    assert merge_configs([*words, "--data.root=x", "--data.recipe.a", "[]"]).missing == []
    filled = merge_configs([*words, "--data.root=x", "--data.recipe.a.1.b", "2", "--c.d", "3"])
    assert yaml.safe_load(filled.args[2]) == {"data": {"init_args": {"root": "x", "recipe": {"a": [1, {"b": 2}]}}}}
    assert filled.args[3:] == ["--c.d", "3"]


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
    # The paper's bundle is sizes only: of no task, and with its own lip features read from outside.
    assert set(paper) == set(nano) - {"omni", "l2s", "visual_encoder"}
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
    assert heard("metis_lightning.tasks.conditioned.SeModule") == {"x": 1, "y": 2, "z": 2}
    assert heard("metis_lightning.tasks.pretrain.PretrainModule") == {"x": 1, "y": 1}


def test_an_overlay_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="give that first"):
        merge_configs(["fit", "-c", PAPER])
