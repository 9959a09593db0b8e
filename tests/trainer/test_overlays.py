"""Configs laid over each other: merged as data, bases below, nothing lost without a word, no other file read."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import fsspec
import pytest
import yaml

from documented import REPOSITORY
from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.trainer.overlays import MergedArguments, merge_configs

COSINE = "metis_lightning.tasks.optimization.WarmupCosine"
INVERSE = "metis_lightning.tasks.optimization.WarmupInverseSqrt"
TSE, SE = "metis_lightning.tasks.conditioned.TseModule", "metis_lightning.tasks.conditioned.SeModule"


def write(folder: Path, **contents: object) -> dict[str, str]:
    """Write configs and return their paths by name."""
    for name, content in contents.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text)
    return {name: str(folder / f"{name}.yaml") for name in contents}


def content(settings: MergedArguments) -> dict:
    """The one config of merged arguments, which stands before every option."""
    at = settings.args.index("-c")
    assert not any(word.startswith("-") for word in settings.args[:at])
    assert "-c" not in settings.args[at + 1 :]
    return yaml.safe_load(settings.args[at + 1])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    module = {"class_path": TSE}
    (tmp_path / "below").mkdir()
    return write(
        tmp_path,
        base={"model": module, "seed_everything": 1, "trainer": {"max_steps": 1, "devices": 1}},
        middle={"based_on": "base.yaml", "seed_everything": 2, "trainer": {"max_steps": 2}},
        top={"based_on": "middle.yaml", "seed_everything": 3},
        other={"seed_everything": 4},
        scale={"by_model": {"metis_lightning.tasks.finetune.FinetuneModule": {"seed_everything": 5}}},
        itself={"based_on": "itself.yaml"},
        one={"based_on": "two.yaml"},
        two={"based_on": "three.yaml"},
        three={"based_on": "one.yaml"},
        lost={"based_on": "nowhere.yaml"},
        up={"based_on": "../nowhere.yaml"},
        absolute={"based_on": str(tmp_path / "base.yaml")},
        listed={"based_on": ["base.yaml"]},
        deep={"based_on": "below/low.yaml", "seed_everything": 8},
    )


def test_bases_come_below(files: dict[str, str]) -> None:
    top = merge_configs(["fit", "-c", files["top"]])
    assert content(top) == {
        "model": {"class_path": TSE},
        "seed_everything": 3,
        "trainer": {"max_steps": 2, "devices": 1},
    }
    assert [path.stem for path in top.files] == ["base", "middle", "top"]
    for form in (["--config", files["other"]], [f"--config={files['other']}"], [f"-c{files['other']}"]):
        assert content(merge_configs(["fit", "-c", files["top"], *form]))["seed_everything"] == 4


def test_a_base_may_lie_in_a_folder_below(files: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "below", low={"seed_everything": 7, "trainer": {"max_steps": 9}})
    assert content(merge_configs(["-c", files["deep"]])) == {"seed_everything": 8, "trainer": {"max_steps": 9}}


def test_a_scale_comes_between_an_experiment_and_its_base(files: dict[str, str], tmp_path: Path) -> None:
    experiment = {"based_on": "../top.yaml", "trainer": {"max_steps": 7}}
    row = write(tmp_path / "below", row=experiment)["row"]
    said = {"seed_everything": 5, "trainer": {"max_steps": 8}}
    scale = write(tmp_path, said={"by_model": {TSE: said}})["said"]
    for order in ((row, scale), (row, files["other"], scale), (row, scale, files["other"])):
        merged = content(merge_configs(["fit", *(word for file in order for word in ("-c", file))]))
        assert merged["trainer"] == {"max_steps": 7, "devices": 1}
        assert merged["seed_everything"] == (4 if files["other"] in order else 5)
    assert content(merge_configs(["-c", files["top"], "-c", scale]))["trainer"]["max_steps"] == 8


def test_class_paths_of_before_are_read_as_todays(tmp_path: Path) -> None:
    old = "metis_lightning.tasks.tse.TseModule"
    paths = write(
        tmp_path,
        full={"model": {"class_path": old, "init_args": {"lora_rank": 1}}},
        short={"model": old},
        scale={"by_model": {old: {"seed_everything": 5}}},
    )
    for given in (["-c", paths["full"]], ["-c", paths["short"]], ["-c", paths["full"], "--model", old]):
        merged = content(merge_configs(["fit", *given, "-c", paths["scale"]]))
        assert merged["seed_everything"] == 5
        assert merged["model"] in (TSE, {"class_path": TSE, "init_args": {"lora_rank": 1}})
    assert merge_configs(["fit", "-c", paths["scale"], f"--model={old}"]).args[3:] == [f"--model={TSE}"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tse_lora", "configs/tse_lora.yaml"),
        ("scale/paper", "configs/scale/paper.yaml"),
        ("table_03/tse_lora_4", "experiments/table_03/tse_lora_4.yaml"),
    ],
)
def test_the_packages_configs_have_names_everywhere(
    name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_path, over = str(REPOSITORY / path), ["-c", str(REPOSITORY / "configs/tse_lora.yaml")]
    assert merge_configs([*over, "-c", name]).args == merge_configs([*over, "-c", by_path]).args
    # A file of one's own wins.
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("seed_everything: 77")
    assert content(merge_configs([*over, "-c", name]))["seed_everything"] == 77


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"tse_lorra: no such file; did you mean the package's 'tse_lora'\?"):
        merge_configs(["fit", "-c", "tse_lorra"])


def test_a_wheel_carries_the_configs_where_they_find_each_other() -> None:
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    folders = {"configs": "metis_lightning/configs", "experiments": "metis_lightning/experiments"}
    folders["evaluation/benchmarks"] = "metis_lightning/benchmarks"
    assert build["wheel"]["force-include"] == folders
    assert {f"/{folder}" for folder in folders} <= set(build["sdist"]["include"])


def test_a_base_that_was_given_is_not_laid_again(files: dict[str, str]) -> None:
    merged = content(merge_configs(["-c", files["base"], "-c", files["other"], "-c", files["middle"]]))
    assert merged["seed_everything"] == 2
    merged = content(merge_configs(["-c", files["middle"], "-c", files["other"], "-c", files["base"]]))
    assert (merged["seed_everything"], merged["trainer"]["max_steps"]) == (1, 1)


def test_a_base_names_the_module_that_an_overlay_speaks_to(files: dict[str, str]) -> None:
    assert content(merge_configs(["-c", files["top"], "-c", files["scale"]]))["seed_everything"] == 5


def test_the_module_that_an_overlay_speaks_to_may_be_an_option(files: dict[str, str], tmp_path: Path) -> None:
    said = {"by_model": {SE: {"seed_everything": 6}, TSE: {"seed_everything": 7}}}
    scale = write(tmp_path, said=said)["said"]
    assert content(merge_configs(["-c", files["base"], "-c", scale]))["seed_everything"] == 7
    assert content(merge_configs(["-c", files["base"], "-c", scale, "--model", SE]))["seed_everything"] == 6
    assert (
        content(merge_configs(["-c", files["base"], "-c", scale, f"--model.class_path={SE}"]))["seed_everything"] == 6
    )


def test_other_arguments_stay(files: dict[str, str]) -> None:
    settings = merge_configs(["fit", "--data.root", "x", "-c", files["middle"], "--data.seed=1", "--print_config"])
    assert settings.args[:2] == ["fit", "-c"]
    assert settings.args[3:] == ["--data.root", "x", "--data.seed=1", "--print_config"]
    assert merge_configs(["fit", "--print_config"]).args == ["fit", "--print_config"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lost", r"lost\.yaml: it is based_on 'nowhere\.yaml', but there is no .*nowhere\.yaml"),
        ("itself", r"itself\.yaml is based on .*itself\.yaml: a config cannot be below itself"),
        ("one", r"one\.yaml is based on .*two\.yaml is based on .*three\.yaml is based on .*one\.yaml"),
        ("up", r"up\.yaml: it is based_on '\.\./nowhere\.yaml', but there is no .*nowhere\.yaml"),
        ("absolute", r"absolute\.yaml: it is based_on something else"),
        ("listed", r"listed\.yaml: it is based_on something else"),
    ],
)
def test_a_base_that_is_missing_or_elsewhere_is_refused(
    files: dict[str, str], tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        merge_configs(["fit", "-c", files[name]])


def test_a_folder_of_configs_may_be_a_link(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to(REPOSITORY / "configs")
    path = write(tmp_path, mine={"based_on": "place/demo.yaml"})["mine"]
    for config in (str(tmp_path / "place" / "demo.yaml"), path):
        assert content(merge_configs(["-c", config]))["model"]["class_path"] == TSE


# --- classes --------------------------------------------------------------------------------------------------------

BASE = {
    "model": {
        "class_path": TSE,
        "init_args": {
            "lora_rank": 3,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "betas": [0.9, 0.98]}},
            "lr_scheduler": {
                "class_path": COSINE,
                "init_args": {"total_steps": "${trainer.max_steps}", "warmup_steps": 5},
            },
        },
    },
    "trainer": {"max_steps": 11, "callbacks": [{"class_path": "a.A"}]},
}


def laid(tmp_path: Path, *above: object, options: tuple[str, ...] = ()) -> MergedArguments:
    """Configs over BASE."""
    paths = write(tmp_path, base=BASE, **{f"above{i}": said for i, said in enumerate(above)})
    return merge_configs(["fit", *(word for path in paths.values() for word in ("-c", path)), *options])


def arguments(settings: MergedArguments, *keys: str) -> dict:
    value = content(settings)["model"]["init_args"]
    for key in keys:
        value = value[key]["init_args"]
    return value


@pytest.mark.parametrize("above", [{"model": {"class_path": SE}}, {"model": SE}, {"model.class_path": SE}])
def test_another_module_keeps_all_it_takes_references_too(tmp_path: Path, above: dict) -> None:
    settings = laid(tmp_path, above)
    assert content(settings)["model"] == {"class_path": SE, "init_args": BASE["model"]["init_args"]}
    assert settings.dropped == []


def test_what_another_class_does_not_take_is_said(tmp_path: Path) -> None:
    schedule = {"class_path": INVERSE, "init_args": {"warmup_steps": 7}}
    settings = laid(tmp_path, {"model": {"init_args": {"lr_scheduler": schedule}}})
    assert arguments(settings, "lr_scheduler") == {"warmup_steps": 7}
    assert settings.dropped == [
        f"{tmp_path / 'above0.yaml'}: model.init_args.lr_scheduler.init_args.total_steps = "
        '"${trainer.max_steps}" is dropped: WarmupInverseSqrt takes no total_steps'
    ]
    assert arguments(settings)["lora_rank"] == 3


def test_a_value_that_another_class_does_not_take_is_said(tmp_path: Path) -> None:
    """SGD takes weight_decay; what its `lr` would be here is no number."""
    names = {"model": {"init_args": {"optimizer": {"init_args": {"lr": ["x"], "weight_decay": 0.5}}}}}
    above = {"model": {"init_args": {"optimizer": {"class_path": "torch.optim.SGD"}}}}
    settings = laid(tmp_path, names, above)
    assert arguments(settings, "optimizer") == {"weight_decay": 0.5}
    assert [line.split("init_args.")[-1] for line in settings.dropped] == [
        'lr = ["x"] is dropped: SGD takes another kind of lr',
        "betas = [0.9, 0.98] is dropped: SGD takes no betas",
    ]


@pytest.mark.parametrize("name", ["torch.optim.AdamW", "torch.optim.adamw.AdamW", "AdamW"])
def test_the_same_class_by_another_name_keeps_everything(tmp_path: Path, name: str) -> None:
    above = {"model": {"init_args": {"optimizer": {"class_path": name, "init_args": {"lr": 0.2}}}}}
    settings = laid(tmp_path, above)
    assert arguments(settings, "optimizer") == {"lr": 0.2, "betas": [0.9, 0.98]}
    assert settings.dropped == []


@pytest.mark.parametrize(
    "above",
    [
        {"model": {"lora_rank": 9}},
        {"model": {"init_args": {"lora_rank": 9}}},
        {"model.init_args.lora_rank": 9},
        {"model.lora_rank": 9},
        {"model": {"class_path": TSE, "init_args": {"lora_rank": 9}}},
    ],
)
def test_arguments_may_be_written_short(tmp_path: Path, above: dict) -> None:
    assert arguments(laid(tmp_path, above)) == {**BASE["model"]["init_args"], "lora_rank": 9}


@pytest.mark.parametrize(
    "options",
    [
        ("--model.lr_scheduler", INVERSE),
        (f"--model.init_args.lr_scheduler={INVERSE}",),
        ("--model.lr_scheduler.class_path", INVERSE),
        (f'--model.lr_scheduler={{"class_path": "{INVERSE}"}}',),
    ],
)
def test_an_option_that_names_another_class_keeps_what_it_takes(tmp_path: Path, options: tuple[str, ...]) -> None:
    settings = laid(tmp_path, options=(*options, "--model.lr_scheduler.warmup_steps", "8"))
    assert arguments(settings, "lr_scheduler") == {"warmup_steps": 5}
    assert settings.args[3:] == ["--model.lr_scheduler.warmup_steps", "8"]
    assert len(settings.dropped) == 1
    assert settings.dropped[0].startswith("--model.")


def test_lists_are_replaced_or_added_to(tmp_path: Path) -> None:
    def callbacks(*above: dict) -> list[str]:
        return [entry["class_path"] for entry in content(laid(tmp_path, *above))["trainer"]["callbacks"]]

    more = {"trainer": {"callbacks+": [{"class_path": "b.B"}]}}
    single = {"trainer": {"callbacks+": {"class_path": "c.C"}}}
    assert callbacks(more, single) == ["a.A", "b.B", "c.C"]
    assert callbacks(more, {"trainer": {"callbacks": [{"class_path": "d.D"}]}}) == ["d.D"]
    scale = {**more, "by_model": {TSE: single}}
    assert callbacks(scale) == ["a.A", "b.B", "c.C"]


def test_classes_in_a_list_are_spoken_to_by_name(tmp_path: Path) -> None:
    said = {"trainer": {"callbacks": {"A": {"x": 1}}, "callbacks+": [{"class_path": "b.B"}]}}
    more = {"trainer": {"callbacks": {"B": {"init_args": {"y": 2}}, "C": {"z": 3}}}}
    settings = laid(tmp_path, said, more)
    assert content(settings)["trainer"]["callbacks"] == [
        {"class_path": "a.A", "init_args": {"x": 1}},
        {"class_path": "b.B", "init_args": {"y": 2}},
    ]
    assert settings.dropped == [
        f"{tmp_path / 'above1.yaml'}: trainer.callbacks.C is dropped: there is no C in the list below"
    ]


def test_null_takes_the_place_of_a_class(tmp_path: Path) -> None:
    assert arguments(laid(tmp_path, {"model": {"init_args": {"optimizer": None}}}))["optimizer"] is None


def test_a_part_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text("max_steps: 12\n")
    assert content(laid(tmp_path, {"trainer": "steps.yaml"}))["trainer"] == {**BASE["trainer"], "max_steps": 12}
    with pytest.raises(UserError, match="trainer is something else than a file in its own folder"):
        laid(tmp_path, {"trainer": "../steps.yaml"})


def test_a_config_may_be_a_text_or_lie_on_a_server(tmp_path: Path) -> None:
    paths = write(tmp_path, base=BASE)
    assert content(merge_configs(["-c", paths["base"], "-c", "trainer: {max_steps: 13}"]))["trainer"]["max_steps"] == 13
    with fsspec.open("memory://far/away.yaml", "w") as file:
        file.write("trainer: {max_steps: 14}\n")
    far = ["-c", paths["base"], "-c", "memory://far/away.yaml"]
    assert content(merge_configs(far))["trainer"]["max_steps"] == 14
    with pytest.raises(UserError, match=r"memory://far/none\.yaml: cannot be read"):
        merge_configs(["-c", "memory://far/none.yaml"])


# --- options before configs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        ("--trainer.max_steps", "3"),
        ("--trainer.max_steps=3",),
        ("--trainer", "x.yaml"),
        ("--trainer.callbacks.dirpath", "x"),
        ("--trainer.callbacks+=x.X",),
        ("--model.lora_rank", "1"),
        ("--model.init_args.lora_rank", "1"),
        ("--model.lr_scheduler.init_args.warmup_steps", "1"),
        ("--model", SE),
        ("--model.class_path", SE),
    ],
)
def test_an_option_before_a_config_that_overrules_it_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    path = write(tmp_path, base=BASE, top={"based_on": "base.yaml"})["top"]
    with pytest.raises(UserError, match=r"--\S+ stands before .*base\.yaml, which says otherwise; give options after"):
        merge_configs(["fit", *option, "-c", path])
    assert merge_configs(["fit", "-c", path, *option])


def test_an_option_before_a_config_that_leaves_it_alone_counts(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE)["base"]
    settings = merge_configs(["fit", "--model.base", "x", "--trainer.max_stepsize=1", "-c", path])
    assert settings.args[3:] == ["--model.base", "x", "--trainer.max_stepsize=1"]
    above = write(tmp_path, over={"by_model": {TSE: {"model": {"init_args": {"base": "y"}}}}})["over"]
    with pytest.raises(UserError, match=r"--model\.base stands before .*over\.yaml"):
        merge_configs(["fit", "-c", path, "--model.base", "x", "-c", above])


# --- mistakes -------------------------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (f"{SECRET}\nand more", "not a config"),
        (f"[{SECRET}]", "not a config"),
        (f"model: [{SECRET}", "not YAML"),
        (f"model: /etc/{SECRET}", "model is neither settings, nor a class"),
        (f"by_model: {SECRET}", "by_model names classes"),
        (f"by_model: {{metis_lightning.tasks.conditioned.TseModule: {SECRET}}}", "by_model names classes"),
        ("by_model: {metis_lightning.tasks.conditioned.TseModul: {seed_everything: 1}}", "there is no class"),
        ("trainer: {max_steps: 1}\ntrainer: {devices: 1}", "line 2: a key that its mapping has already"),
        ("trainer: {max_steps: 1}\ntrainer.max_steps: 2", "says 'max_steps' twice"),
        ("trainer: {max_steps: '${oc.env:HOME}'}", "is not resolved in a config"),
        ("trainer: {max_steps: '${oc.decode:1}'}", "is not resolved in a config"),
        ("a: &a [*a]", "a value that contains itself"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)),
            "stands for more than 100,000 values",
        ),
    ],
)
@pytest.mark.timeout(20)
def test_a_config_that_is_none_is_one_line_without_its_words(tmp_path: Path, said: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        laid(tmp_path, said)
    assert message in str(error.value)
    assert "above0.yaml" in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.timeout(20)
def test_a_pipe_is_no_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="not a plain file"):
        merge_configs(["fit", "-c", str(tmp_path / "pipe.yaml")])
    with pytest.raises(UserError, match="the name of a config file is missing"):
        merge_configs(["fit", "-c"])


@pytest.mark.parametrize(
    "said",
    [
        "data: {init_args: {recipe: PATH}}",
        "model: {init_args: {optimizer: PATH}}",
        "model: {init_args: {prompt_rule: PATH}}",
        "trainer: {logger: PATH}",
        "trainer: {callbacks: PATH}",
        "trainer: {plugins: [PATH]}",
        "trainer: {callbacks+: [{class_path: PATH}]}",
    ],
)
def test_no_file_is_read_for_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str) -> None:
    (tmp_path / "foreign").write_text(f"{SECRET} and other words\n")
    path = write(tmp_path, mine=said.replace("PATH", str(tmp_path / "foreign")))["mine"]
    assert cli.main(["fit", "-c", str(REPOSITORY / "configs" / "tse_lora.yaml"), "-c", path]) == 2
    err = capsys.readouterr().err
    assert SECRET not in err
    assert err.splitlines()[-1].startswith("metis-lightning: error: ")


def test_a_misspelt_key_is_found_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    config = tmp_path / "mine.yaml"
    config.write_text("trainer:\n  max_stps: 3\n")
    assert cli.main(["fit", "-c", str(tmp_path / "configs" / "tse_lora.yaml"), "-c", str(config)]) == 2
    assert f"unknown key 'trainer.max_stps' ({config}:2)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--ckpt_path", "--data.recipe.noise_root", "--trainer.logger.init_args.name"])
def test_an_option_that_no_config_can_hold_is_refused(option: str) -> None:
    config = str(REPOSITORY / "configs" / "se_lora.yaml")
    for given in ([option, "stra\udcdfe"], [f"{option}=stra\udcdfe"]):
        with pytest.raises(UserError, match=f"{option} stra\udcdfe: not UTF-8, which a run's config.yaml must be"):
            merge_configs(["fit", "-c", config, *given])


def test_what_is_dropped_is_said_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["fit", "-c", str(REPOSITORY / "configs" / "tse_lora.yaml"), "--model.lr_scheduler", INVERSE]
    with pytest.raises(SystemExit) as stop:
        cli.main([*args, "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0
    assert said.err.splitlines() == [
        "metis-lightning: --model.lr_scheduler: model.init_args.lr_scheduler.init_args.total_steps = "
        '"${trainer.max_steps}" is dropped: WarmupInverseSqrt takes no total_steps'
    ]
    schedule = yaml.safe_load(said.out)["model"]["init_args"]["lr_scheduler"]
    assert schedule == {"class_path": INVERSE, "init_args": {"warmup_steps": 50}}
