"""Long messages of libraries as one line."""

import pytest
import torch

from metis_lightning.trainer.explain import explain_state_dict_error


def load_error(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state)
    return str(error.value)


def test_the_first_differing_shape_is_named() -> None:
    message = load_error(torch.nn.Linear(3, 2), {"weight": torch.zeros(2, 5), "bias": torch.zeros(())})
    assert explain_state_dict_error(message) == (
        "the checkpoint has another shape: weight is [2, 5] there and [2, 3] in the model (and 1 more)"
    )


def test_missing_and_unexpected_keys_are_named() -> None:
    model = torch.nn.Linear(3, 2)
    lacking = load_error(model, {})
    assert explain_state_dict_error(lacking) == (
        "the checkpoint is of another model: weight is not in the checkpoint (and 1 more)"
    )
    beyond = load_error(model, {**model.state_dict(), "scale": torch.zeros(1)})
    assert explain_state_dict_error(beyond) == "the checkpoint is of another model: scale is not in the model"


def test_other_errors_are_left_alone() -> None:
    assert explain_state_dict_error("mat1 and mat2 shapes cannot be multiplied") is None
