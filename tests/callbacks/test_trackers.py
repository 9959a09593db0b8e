"""What runs leave in the loggers: samples in each kind, and TensorBoard's diagrams of what is compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from metis_lightning.callbacks.validation_samples import FeatureSamples, SpeechSamples, sample_writer
from tiny_run import Run

WAVE = torch.sin(torch.arange(2400) / 5)


def test_wandb_gets_sounds_and_pictures() -> None:
    logger = Mock(spec=WandbLogger)
    SpeechSamples().write(sample_writer(logger), "a/target", WAVE, 7)
    (tag, sounds), options = logger.log_audio.call_args
    assert tag == "a/target" and options == {"step": 7, "sample_rate": [24_000]}
    np.testing.assert_array_equal(sounds[0], WAVE.clamp(-1, 1).numpy())
    (tag, pictures), options = logger.log_image.call_args
    assert tag == "a/target_mel" and options == {"step": 7}
    assert pictures[0].shape[0] == 160 and pictures[0].shape[2] == 3


def test_mlflow_gets_sounds_as_files_and_pictures(tmp_path: Path) -> None:
    stored = {}

    def log_artifact(run: str, path: str, folder: str) -> None:
        stored[folder, Path(path).name] = soundfile.read(path)

    logger = Mock(spec=MLFlowLogger)
    logger.run_id, logger.experiment = "run", SimpleNamespace(log_artifact=log_artifact, log_image=Mock())
    SpeechSamples().write(sample_writer(logger), "a/target", WAVE, 7)
    sound, rate = stored["audio/a/target", "0000007.wav"]
    assert rate == 24_000
    np.testing.assert_allclose(sound, WAVE.clamp(-1, 1), atol=2**-15)
    (run, picture), options = logger.experiment.log_image.call_args
    assert run == "run" and options == {"key": "a/target_mel", "step": 7}
    assert picture.dtype == np.uint8 and picture.max() > 200


def test_a_logger_of_scalars_gets_no_samples(tmp_path: Path) -> None:
    assert sample_writer(CSVLogger(tmp_path)) is None
    writer = sample_writer(TensorBoardLogger(tmp_path))
    FeatureSamples().write(writer, "features", torch.randn(9, 4), 3)


@pytest.mark.timeout(300)
def test_tensorboard_shows_what_is_compared_in_one_diagram(tmp_path: Path, tiny_bundle: Path) -> None:
    run = Run(tmp_path / "run", tiny_bundle)
    assert run("--trainer.max_steps=1") == 0
    events = EventAccumulator(str(tmp_path / "run/runs/tiny"))
    events.Reload()
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    shown = {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }
    assert shown["loss"]["training and validation"] == ["train/loss$", "val/loss$"]
    assert shown["acc"]["with and without the condition"] == ["val/acc$", "val/base_acc$"]
    assert "tokens_per_second" in shown["speed"]
