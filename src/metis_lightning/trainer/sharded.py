"""FSDP2 by Lightning's `ModelParallelStrategy`, with checkpoints that are those of any other run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer


class ShardedStrategy(ModelParallelStrategy):
    """Each process holds a part of the weights, gradients and optimizer states; see `models.sharding`.

    A checkpoint is put together on the first process and written as one sealed file, the same as DDP's: `generate`,
    `weights.export` and runs under another strategy or number of processes take it as it is. The first process needs
    the host memory for all of it, 12 bytes a trained weight.
    """

    # Lightning hands the optimizers' states over, as it does under DDP.
    lightning_restore_optimizer = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        """Make all processes one data-parallel group."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint's content, which every process reads and checks."""
        content: dict[str, Any] = self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path))
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Share out a checkpoint's weights."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    def optimizer_state(self, optimizer: Optimizer | LightningOptimizer) -> dict[str, Any]:
        """Return the whole state of an optimizer on the first process, nothing on the others."""
        assert self.model is not None
        bare = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named: dict[str, Any] = dict(get_optimizer_state_dict(self.model, bare, options=options))
        if not named:
            return {}
        numbers = {name: number for number, name in enumerate(self._names(bare))}
        return {
            "state": {numbers[name]: slots for name, slots in named["state"].items()},
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]
            ],
        }

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Share out the states of a checkpoint's optimizers, of whatever strategy."""
        assert self.model is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            # Numbers count through the groups in their order, here as in any optimizer.
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            name_of = dict(zip(numbers, names, strict=True))
            groups = [{**group, "params": [name_of[n] for n in group["params"]]} for group in state["param_groups"]]
            slots = {name_of[number]: values for number, values in state["state"].items()}
            named: dict[str, Any] = {"state": slots, "param_groups": groups}
            set_optimizer_state_dict(self.model, optimizer, named, options=StateDictOptions(full_state_dict=True))

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Return the names of an optimizer's parameters, group by group."""
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
