"""Exact resume: a run's place in its training data, which checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from metis_lightning.data.batches.sampler import SecondsBatchSampler
from metis_lightning.errors import UserError


@dataclass(frozen=True)
class DataPosition:
    """The epoch, how many of its batches are done, and the batches' fingerprint, empty until they are planned."""

    epoch: int = 0
    batches: int = 0
    plan: str = ""

    @classmethod
    def from_state(cls, state: object, owner: str) -> DataPosition:
        """Return the place in a checkpoint's field `owner`; a UserError if it is no such place."""
        fields: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        if not all(isinstance(fields.get(name), int) and fields[name] >= 0 for name in ("epoch", "batches")):
            raise UserError(
                f"the checkpoint's field {owner} is not the place in training that it stands for: {state!r:.100}"
            )
        return cls(fields["epoch"], fields["batches"], fields.get("plan", ""))

    def reached(self, trainer: Trainer) -> DataPosition:
        """Return how far a run has come, in the same plan; an epoch's end is the start of the next."""
        done, epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.current_epoch
        is_whole = done >= trainer.num_training_batches
        return DataPosition(epoch + is_whole, 0 if is_whole else done, self.plan)

    def restore(self, sampler: SecondsBatchSampler) -> DataPosition:
        """Let a sampler go on here, in its own plan, which is returned; a warning if it is another within an epoch."""
        plan = sampler.fingerprint()
        if self.batches and self.plan not in ("", plan):
            rank_zero_warn(
                "the checkpoint was made within an epoch of other batches (another corpus, batch_seconds, seed, "
                "release or number of processes): utterances of this epoch may be heard twice or not at all"
            )
        sampler.resume(self.epoch, self.batches)
        return replace(self, plan=plan)
