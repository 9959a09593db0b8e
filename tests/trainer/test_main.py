"""Which callbacks a run gets beyond those of its config."""

from __future__ import annotations

import pytest
from jsonargparse import Namespace

from metis_lightning.trainer.main import prepare_settings

OURS = "metis_lightning.callbacks.checkpoints.RunCheckpoint"


@pytest.mark.parametrize("named", [OURS, "lightning.pytorch.callbacks.ModelCheckpoint"])
@pytest.mark.parametrize("save_last", [None, True, False])
def test_a_config_that_names_its_checkpoints_gets_no_others(named: str, save_last: bool | None) -> None:
    given = Namespace(class_path=named, init_args=Namespace(every_n_train_steps=5, save_last=save_last))
    settings = Namespace(callbacks=[given], enable_checkpointing=None, barebones=False, logger=False)
    prepare_settings(settings, "fit")
    (checkpoints,) = settings.callbacks
    assert (checkpoints.class_path, checkpoints.init_args.every_n_train_steps) == (OURS, 5)
    assert checkpoints.init_args.save_last is (save_last is None or save_last)


@pytest.mark.parametrize("given", [None, []])
def test_a_config_without_checkpoints_gets_ours(given: list[Namespace] | None) -> None:
    settings = Namespace(callbacks=given, enable_checkpointing=None, barebones=False, logger=False)
    prepare_settings(settings, "fit")
    (checkpoints,) = settings.callbacks
    assert (checkpoints.class_path, checkpoints.init_args.save_last) == (OURS, True)
