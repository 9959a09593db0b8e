"""The base of every trainable module: injected optimizer and schedule, seeded steps, checkpoints, and logging.

Shape letters: B batch, T frames, M masked positions of a batch, V codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.errors import UserError
from metis_lightning.models.masking import Masking, mask_ratio
from metis_lightning.models.sharding import shard
from metis_lightning.state_dicts import difference
from metis_lightning.tasks.optimization import WarmupInverseSqrt, check_same_kind, parameter_groups, regroup
from metis_lightning.tokens.tokenizer import SpeechTokenizer, fingerprints
from metis_lightning.types import SpeechBatch

# Prefix of the frozen front end's weights in a module's state.
FRONT_END = "tokenizer."
# Of the mask ratio, equally wide.
BINS = 5


@dataclass(frozen=True)
class PartOfBundle:
    """A part that a module trains: its configuration, and the prefix of its weights in the module's state."""

    config: Mapping[str, Any]
    prefix: str
    # Licence and source of weights that came from elsewhere.
    origin: Mapping[str, Any] = field(default_factory=dict)


class TrainableModule(lightning.LightningModule):
    """A LightningModule whose optimizer and schedule are given from outside.

    Subclasses implement `losses`, named scalars (`loss` is minimised; where it is a mean over masked tokens,
    `masked_tokens` counts them), and `parts`, what of the module goes into a bundle and every checkpoint.

    Args:
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    # Whether some weights have no part in some steps.
    has_unused_parameters: bool = False
    # Those that the module trains on and can read from a store; none if it needs the audio.
    token_kinds: tuple[str, ...] = ()

    def __init__(
        self, optimizer: OptimizerCallable = torch.optim.AdamW, lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt
    ) -> None:
        super().__init__()
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._seed = torch.initial_seed()
        self._tokens: Tensor | int = 0
        self.by_mask_ratio = MaskRatioCurve()
        # A checkpoint lacks what `checkpoint_keys` leaves out, by design; `on_load_checkpoint` checks the rest.
        self.strict_loading = False

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return named scalars of one batch, `loss` among them; `generator` fixes every draw (validation)."""
        raise NotImplementedError

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the parts of a bundle that this module trains, by name."""
        raise NotImplementedError

    def checkpoint_keys(self) -> set[str]:
        """Return the names of the weights that a checkpoint holds: all but the frozen front end of a bundle."""
        return {name for name in self.state_dict() if not name.startswith(FRONT_END)}

    def setup(self, stage: str) -> None:
        """Tell DDP of unused weights, and have a data module with a token store read what this tokenizer makes."""
        if isinstance(strategy := self.trainer.strategy, DDPStrategy):
            # Buffers are constants, or counts of a process's own: the first one's are not to replace the others'.
            strategy._ddp_kwargs.setdefault("broadcast_buffers", False)
            # DDP would wait for the gradients of weights that have no part in a step.
            if self.has_unused_parameters:
                strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        # The module is moved to its device later.
        self.read_stored_tokens(getattr(self.trainer, "datamodule", None), self.trainer.strategy.root_device)

    def configure_model(self) -> None:
        """Share out the weights of `model`, where the strategy is Lightning's `ModelParallelStrategy`."""
        model = getattr(self, "model", None)
        if self.device_mesh is None or any(isinstance(p, DTensor) for p in self.parameters()):
            return
        if self.has_unused_parameters or not isinstance(model, nn.Module) or not self.automatic_optimization:
            # Processes that train other weights in a step would wait for each other's gradients.
            raise UserError(f"{type(self).__name__} trains under DDP only; give --trainer.strategy ddp")
        shard(model, self.device_mesh["data_parallel"])

    def read_stored_tokens(self, datamodule: object, device: torch.device) -> None:
        """Have a data module read from its token store, if it has one, what this tokenizer makes on a device."""
        if not isinstance(datamodule, SpeechDataModule) or datamodule.tokens is None:
            return
        tokenizer = getattr(self, "tokenizer", None)
        if not self.token_kinds or tokenizer is None:
            raise UserError("this module trains on audio, not on tokens: leave data.tokens out")
        datamodule.use_tokens(fingerprints(tokenizer, self.token_kinds, device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the module's own weights, which of them make which part of a bundle, and the seed of all draws."""
        keys = self.checkpoint_keys()
        checkpoint["seed"] = self._seed
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["bundle_parts"] = {
            name: {"config": dict(part.config), "prefix": part.prefix, "origin": dict(part.origin)}
            for name, part in self.parts().items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose weights are not this module's; a `UserError` names those that differ."""
        keys = self.checkpoint_keys()
        own = {name: value for name, value in self.state_dict().items() if name in keys}
        loaded = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(FRONT_END)}
        if text := difference(own, loaded):
            raise UserError(f"the checkpoint's weights do not fit: {text}; compare with the config of its run")
        checkpoint["state_dict"] = loaded
        regroup(checkpoint, [(self, parameters) for parameters in self.trained()])
        if self._trainer is not None and self._trainer.state.fn == "fit":
            check_same_kind(checkpoint, self._optimizer(parameter_groups(self, self.trained()[0])))
        self._seed = checkpoint.get("seed", self._seed)

    def on_train_batch_start(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Seed all draws of a step by its place and process: a resumed run draws the same, no two processes do."""
        place = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derived_generator("step", *place).initial_seed())

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, weighted by its share of the update, and log all its scalars under `train/`."""
        scalars = self.losses(batch)
        self.log_scalars("train", scalars, batch)
        # So an update follows the mean over all its masked tokens: DDP averages gradients over processes and Lightning
        # over the batches of an update, however many tokens each has.
        if (tokens := scalars.get("masked_tokens")) is None:
            return scalars["loss"]
        per_process = tokens
        if self.trainer.world_size > 1:
            # Lightning's own reduction puts a barrier before it, at which every process waits for its GPU to run dry.
            total = tokens.clone()
            torch.distributed.all_reduce(total)
            per_process = total / self.trainer.world_size
        batches = self.trainer.accumulate_grad_batches
        if batch_idx % batches == 0:
            self._tokens = 0
        before, self._tokens = self._tokens, self._tokens + per_process
        if batch_idx % batches:
            # How many tokens are still to come is not known, so the gradients so far shrink as the batches come in.
            for gradient in (p.grad for p in self.parameters() if p.grad is not None):
                gradient.mul_(before / self._tokens)
        return scalars["loss"] * (batches * tokens / self._tokens)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, a fused optimizer's gradients too: it refuses those, but bfloat16 has no scale."""
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def score_masked(self, logits_MV: Tensor, targets_M: Tensor, masking: Masking) -> dict[str, Tensor]:
        """Return `loss`, `acc` and `masked_tokens` of a batch, and count it for the curve of a validation."""
        if not self.training:
            self.by_mask_ratio.update(logits_MV, targets_M, masking)
        return {**masked_scores(logits_MV, targets_M), "masked_tokens": masking.mask.sum().float()}

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Log a batch's scalars under `val/`, with the same draws at every validation."""
        self.log_scalars("val", self.losses(batch, torch.Generator(self.device).manual_seed(batch_idx)), batch)

    def on_validation_epoch_start(self) -> None:
        """Start the curve by mask ratio anew."""
        self.by_mask_ratio.reset()

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracy by how much was masked, for modules that note it."""
        if self.by_mask_ratio.update_called:
            curve = self.by_mask_ratio.compute()
            self.log_dict({f"val/{name}": value for name, value in curve.items()}, sync_dist=True)

    def trained(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the parameters of each optimizer."""
        return ([p for p in self.parameters() if p.requires_grad],)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the injected optimizer over the trainable parameters, and its schedule, stepped every update."""
        optimizer = self._optimizer(parameter_groups(self, self.trained()[0]))
        scheduler = self._lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def averaged_over(self, scalars: Mapping[str, Tensor], batch: SpeechBatch) -> int:
        """Return how many things a batch's scalars are means over, by which batches weigh in a validation's mean."""
        return int(scalars.get("masked_tokens", len(batch.ids)))

    def log_scalars(self, stage: str, scalars: Mapping[str, Tensor], batch: SpeechBatch) -> None:
        """Log a batch's scalars under `train/` each step, or under `val/` as means over the validation."""
        is_train = stage == "train"
        shown = {name: value for name, value in scalars.items() if is_train or name != "masked_tokens"}
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in shown.items()},
            # Counted in training it would wait for the device, and change nothing.
            batch_size=len(batch.ids) if is_train else self.averaged_over(scalars, batch),
            on_step=is_train,
            on_epoch=not is_train,
            sync_dist=not is_train,
        )
        if is_train:
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])


def masked_scores(logits_MV: Tensor, targets_M: Tensor) -> Mapping[str, Tensor]:
    """Return the mean cross-entropy in nats (`loss`) and the share of right first guesses (`acc`)."""
    acc = (logits_MV.argmax(dim=-1) == targets_M).float().mean()
    return {"loss": F.cross_entropy(logits_MV, targets_M), "acc": acc}


class MaskRatioCurve(Metric):
    """Loss and accuracy on masked tokens by the mask ratio γ(t) of their rows: the mean hides how much was masked."""

    losses: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Sums of the cross-entropy; numbers of right guesses and of tokens. Not in float64, which Apple GPUs lack.
        self.add_state("losses", torch.zeros(BINS), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(2, BINS, dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, logits_MV: Tensor, targets_M: Tensor, masking: Masking) -> None:
        """Count the masked tokens of a batch, in the order of `masking.mask`."""
        ratio_M = masking.masked(mask_ratio(masking.t)[:, None].expand(masking.mask.shape))
        bins_M = (ratio_M * BINS).long().clamp(max=BINS - 1)
        right = logits_MV.argmax(dim=-1) == targets_M
        losses_M = F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
        values = torch.stack([losses_M, right, torch.ones_like(right)])
        totals = self.losses.new_zeros(3, BINS).index_add_(1, bins_M, values)
        self.losses += totals[0]
        self.counts += totals[1:].long()

    def compute(self) -> dict[str, Tensor]:
        """Return `loss_mask_00-20`, `acc_mask_00-20`, … (percent), without the bins that have no token."""
        right, counts = self.counts
        names = [f"mask_{100 * i // BINS:02}-{100 * (i + 1) // BINS}" for i in range(BINS)]
        filled = [(i, name) for i, name in enumerate(names) if counts[i]]
        kinds = (("loss", self.losses), ("acc", right))
        return {f"{kind}_{name}": (sums[i] / counts[i]).float() for kind, sums in kinds for i, name in filled}


def frame_mask(frames: Tensor, length: int) -> Tensor:
    """Return (B, length), True on the first `frames` (B,) positions of each row."""
    return torch.arange(length, device=frames.device) < frames[:, None]


def ssl_targets(tokenizer: SpeechTokenizer, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """Return the SSL tokens (B, T) of a batch, read from a store or made of its waves, and frame counts (B,)."""
    if batch.ssl_tokens is None:
        return tokenizer.ssl_tokens(batch.wave, batch.lengths)
    frames = tokenizer.num_frames(batch.lengths)
    return batch.ssl_tokens[:, : int(frames.max())], frames
