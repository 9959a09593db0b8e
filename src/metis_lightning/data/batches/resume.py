"""Exact resume: a run's place in its training data, which checkpoints hold.

An epoch that was begun by one number of processes is ended by another: what is left of it is shared anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from metis_lightning.data.batches.sampler import SecondsBatchSampler, Shares, process_rank_and_count
from metis_lightning.errors import UserError


@dataclass(frozen=True)
class DataPosition:
    """The epoch, what was heard of it, and the batches' fingerprint, empty until they are planned.

    `start` is the batch at which this run took up the epoch, in its own count.
    """

    epoch: int = 0
    shares: Shares = ()
    plan: str = ""
    start: int = 0

    @classmethod
    def from_state(cls, state: object, owner: str) -> DataPosition:
        """Return the place in a checkpoint's field `owner`; a UserError if it is no such place."""
        fields: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        # Checkpoints of before have the number of batches alone, of as many processes as there are.
        before = [[process_rank_and_count()[1], fields["batches"]]] if fields.get("batches") else []
        shares = fields.get("shares", before if "batches" in fields else None)
        is_paired = isinstance(shares, list) and all(isinstance(share, list) and len(share) == 2 for share in shares)
        numbers = [number for share in shares for number in share] if is_paired else []
        epoch = fields.get("epoch")
        if not (is_paired and isinstance(epoch, int) and epoch >= 0 and all(type(n) is int and n > 0 for n in numbers)):
            raise UserError(
                f"the checkpoint's field {owner} is not the place in training that it stands for: {state!r:.100}"
            )
        return cls(epoch, tuple((processes, batches) for processes, batches in shares), fields.get("plan", ""))

    def state(self) -> dict[str, Any]:
        """Return what `from_state` reads."""
        return {"epoch": self.epoch, "shares": [list(share) for share in self.shares], "plan": self.plan}

    def reached(self, trainer: Trainer) -> DataPosition:
        """Return how far a run has come, in the same plan; an epoch's end is the start of the next."""
        done, epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.current_epoch
        if done >= trainer.num_training_batches:
            return DataPosition(epoch + 1, plan=self.plan)
        shares, start = (self.shares, self.start) if epoch == self.epoch else ((), 0)
        own = ((trainer.world_size, done - start),) if done > start else ()
        return DataPosition(epoch, shares + own, self.plan)

    def restore(self, sampler: SecondsBatchSampler, trainer: Trainer | None) -> DataPosition:
        """Let a sampler, and the count of a trainer's batches, go on here; return the place in the sampler's plan.

        A warning if that is another within an epoch.
        """
        plan = sampler.fingerprint()
        if self.shares and self.plan not in ("", plan):
            rank_zero_warn(
                "the checkpoint was made within an epoch of other batches (another corpus, batch_seconds, seed or "
                "release): utterances of this epoch may be heard twice or not at all"
            )
        reached = self
        sampler.resume(self.epoch, self.shares)
        if self.shares and sampler.place() == len(sampler):
            reached = replace(self, epoch=self.epoch + 1, shares=())
        sampler.resume(reached.epoch, reached.shares)
        place = sampler.place() if reached.shares else 0
        progress = None if trainer is None else trainer.fit_loop.epoch_loop.batch_progress
        if progress is not None and progress.current.ready:
            # The checkpoint counts the batches of other processes. An epoch that they ended is ended in our count, too.
            shift = (place if reached.shares else max(len(sampler), progress.current.ready)) - progress.current.ready
            for name in ("ready", "started", "processed", "completed"):
                setattr(progress.current, name, getattr(progress.current, name) + shift)
            progress.is_last_batch = not reached.shares
        return replace(reached, plan=plan, start=place)
