"""Single settings in the place of others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metis_lightning.errors import UserError
from metis_lightning.sampling.settings import PRESETS, Options, Sampling, Settings


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


def test_a_preset_is_a_share_of_the_released_steps_that_single_settings_overrule() -> None:
    released = Settings(Sampling(num_steps=20, guidance_scale=1.0))
    assert released.chosen({"preset": "released"}) == released
    share, layers = PRESETS["balanced"]
    balanced = released.chosen({"preset": "balanced"})
    assert (balanced.stage1.num_steps, balanced.stage2_steps) == (round(20 * share), layers)
    assert balanced.stage1.guidance_scale == 1.0
    own = released.chosen({"preset": "fast", "num_steps": 7, "stage2_steps": (9, 3)})
    assert (own.stage1.num_steps, own.layer_steps(5)) == (7, [9, 3, 3, 3, 3])
    with pytest.raises(UserError, match="preset 'faster': choose one of released, balanced, fast"):
        released.chosen({"preset": "faster"})


def test_every_preset_is_cheaper_than_the_one_before() -> None:
    costs = [(share, sum(layers)) for share, layers in PRESETS.values()]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)


def test_settings_that_do_not_mask_again_are_described_as_by_earlier_versions() -> None:
    described = Settings().described()
    assert set(described["stage1"]) == {
        *("num_steps", "temperature", "confidence_temperature", "filter_threshold"),
        *("guidance_scale", "guidance_rescale"),
    }
    again = replace(Settings(), stage2=Sampling(remasks=True)).described()
    assert again["stage2"]["remasks"] is True and "remasks" not in again["stage1"]
