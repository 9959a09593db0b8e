"""Single settings in the place of others."""

from __future__ import annotations

import pytest

from metis_lightning.errors import UserError
from metis_lightning.sampling.settings import Options, Settings


def test_single_settings_replace_those_of_stage_1_and_the_steps_of_stage_2() -> None:
    chosen = Settings().chosen({"num_steps": 3, "guidance_scale": 1.5, "temperature": 0.2, "stage2_steps": (4, 2, 1)})
    assert (chosen.stage1.num_steps, chosen.stage1.guidance_scale, chosen.stage1.temperature) == (3, 1.5, 0.2)
    assert chosen.stage2 == Settings().stage2
    assert chosen.layer_steps(4) == [4, 2, 1, 1]
    assert Settings().chosen({}) == Settings()


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 0}, {"guidance_scale": -1.0}, {"temperature": float("nan")}, {"stage2_steps": (4, 0, 1)}],
    ids=str,
)
def test_settings_that_cannot_be_are_the_users_mistake(options: Options) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Settings().chosen(options)
