"""TensorBoard has a run's hyper-parameters and the text of its config."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from documented import REPOSITORY
from metis_lightning.cli import main as cli


@pytest.fixture(scope="module")
def run(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu"]
    options += ["--trainer.devices=1", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
    options += [
        f"--trainer.logger.init_args.save_dir={folder}",
        f"--model.base={tiny_bundle}",
        "--data.batch_seconds=6",
    ]
    options += ["--trainer.val_check_interval=1", "--trainer.enable_model_summary=false", "--data.batch_seconds=6"]
    assert cli.main(["fit", "-c", str(REPOSITORY / "configs/tse_lora.yaml"), *options]) == 0
    return folder


def test_the_hyper_parameters_are_data_and_a_file(run: Path) -> None:
    (events,) = run.rglob("events*")
    read = EventAccumulator(str(events)).Reload()
    metadata = read.summary_metadata["_hparams_/session_start_info"]
    started = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert started["model"].string_value == "TseModule"
    assert started["model.optimizer.lr"].number_value == 2e-3
    assert started["data.batch_seconds"].number_value == 6
    assert started["data.recipe.enrollment"].string_value == "utterance"
    assert started["seed_everything"].number_value == 0
    assert started["trainer.max_steps"].number_value == 1
    (file,) = run.rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text())["model.lora_rank"] == 32
    # No scalar that is nobody's measurement.
    assert "hp_metric" not in read.Tags()["scalars"]
    (first, *_) = read.Scalars("val/loss")
    assert first.value > 1


def test_the_whole_config_is_a_text(run: Path) -> None:
    (events,) = run.rglob("events*")
    read = EventAccumulator(str(events)).Reload()
    (text,) = read.Tensors("config/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    config = yaml.safe_load(shown.removeprefix("```yaml\n").removesuffix("\n```"))
    (saved,) = run.rglob("config.yaml")
    assert config == yaml.safe_load(saved.read_text())
