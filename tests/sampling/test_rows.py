"""Lists and single values side by side, and single settings among others."""

from __future__ import annotations

import pytest

from metis_lightning.errors import UserError
from metis_lightning.sampling.rows import each, each_row
from metis_lightning.sampling.settings import SE_SETTINGS, Options


def test_single_values_go_for_every_row() -> None:
    assert each(lambda *row: row, "a", 1) == ("a", 1)
    assert each(lambda *row: row, ["a", "b"], "x", [1, 2]) == [("a", "x", 1), ("b", "x", 2)]
    assert each_row(7, 3) == [7, 7, 7]
    with pytest.raises(UserError, match="3 values for 2 rows"):
        each(lambda *row: row, ["a", "b"], [1, 2, 3])
    with pytest.raises(UserError, match="beside a single input"):
        each(lambda *row: row, "a", [1, 2])


def test_single_settings_replace_those_of_stage_1_and_the_steps_of_stage_2() -> None:
    chosen = SE_SETTINGS.chosen({"num_steps": 3, "guidance_scale": 1.5, "temperature": 0.2, "stage2_steps": (4, 2, 1)})
    assert (chosen.stage1.num_steps, chosen.stage1.guidance_scale, chosen.stage1.temperature) == (3, 1.5, 0.2)
    assert chosen.stage2 == SE_SETTINGS.stage2
    assert chosen.layer_steps(4) == [4, 2, 1, 1]
    assert SE_SETTINGS.chosen({}) == SE_SETTINGS


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 0}, {"guidance_scale": -1.0}, {"temperature": float("nan")}, {"stage2_steps": (4, 0, 1)}],
    ids=str,
)
def test_settings_that_cannot_be_are_the_users_mistake(options: Options) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        SE_SETTINGS.chosen(options)
