"""Training of stage 2, either of its two models (MaskGCT, 2409.00750, section 3.2.3).

Shape letters: B batch, T frames, Q quantizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.errors import UserError
from metis_lightning.models.masking import PromptRule, draw_masking
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.tasks.base import PartOfBundle, TrainableModule, frame_mask, ssl_targets
from metis_lightning.tasks.codebooks import spread_codes
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import STAGE2, load_tokenizer, plain_config
from metis_lightning.weights.bundle import bundle_folder
from metis_lightning.weights.start import load_start

STAGE2_PROMPTS = PromptRule(longest=0.5)


class SemanticToAcousticModule(TrainableModule):
    """Trains one model of stage 2; in each step one quantizer layer is masked and predicted.

    Args:
        part: name in the bundle, `s2a_1layer` or `s2a_full`.
        stage2: sizes, and the first layer that the model predicts.
        tokenizer: bundle whose codecs make the tokens.
        prompt_rule: prompts and masks.
        init_from_codes: begin with embeddings that lie as the codecs' code vectors do.
        start_from: a bundle, or a checkpoint, where training starts: at its part of this name, or else at the other
            model of stage 2, with all that both have.
        cache_tokens: keep every utterance's tokens in memory. For small corpora, and recipes that do not crop. None
            keeps them where training is on the CPU; a GPU encodes a batch as one, sooner than it would ask for rows.
    """

    token_kinds = ("ssl", "acoustic")

    def __init__(
        self,
        part: str = "s2a_full",
        stage2: SemanticToAcousticConfig = SemanticToAcousticConfig(),  # noqa: B008  frozen
        tokenizer: str = "nano",
        prompt_rule: PromptRule = STAGE2_PROMPTS,
        init_from_codes: bool = False,
        cache_tokens: bool | None = None,
        start_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.part, self.model = part, SemanticToAcoustic(stage2)
        self.tokenizer = load_tokenizer(bundle_folder(tokenizer))
        if init_from_codes:
            acoustic = self.tokenizer.acoustic_codec
            stages = [] if acoustic is None else acoustic.decoder.quantizer.stages
            embeddings = cast(Iterable[nn.Embedding], (self.model.cond_emb, *self.model.token_emb))
            pairs = list(zip(embeddings, (*self.tokenizer.semantic_codec.quantizer.stages, *stages), strict=False))
            if len(pairs) <= stage2.num_quantizers or any(
                a.num_embeddings != b.codebook.num_embeddings for a, b in pairs
            ):
                raise UserError(f"init_from_codes: the codebooks of {tokenizer!r} are not those of model.stage2")
            for embedding, stage in pairs:
                spread_codes(embedding, stage)
        if start_from is not None:
            load_start(self.model, start_from, part, next(name for name in STAGE2 if name != part))
        self.cache = TokenCache(self.tokenizer, cache_tokens)
        self.prompt_rule = prompt_rule
        # Of the layers' output maps, a step trains one.
        self.has_unused_parameters = stage2.num_quantizers > 1

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the model under its name in a bundle."""
        return {self.part: PartOfBundle(plain_config(self.model.config), "model.")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the loss and accuracy on the masked tokens of a drawn layer."""
        if batch.ssl_tokens is None or batch.acoustic_tokens is None:
            ssl, acoustic, frames = self.cache.tokens(batch)
        else:
            ssl, frames = ssl_targets(self.tokenizer, batch)
            acoustic = batch.acoustic_tokens[:, : ssl.shape[1]]
        acoustic = acoustic[..., : self.model.config.num_quantizers]
        uniform = torch.rand((), generator=generator, device=None if generator is None else generator.device)
        edges = self.model.config.layer_weights().cumsum(0)[:-1]
        layer = int(torch.searchsorted(edges, uniform.cpu(), right=True))
        masking = draw_masking(frames, ssl.shape[1], self.prompt_rule, generator)
        # First, since a GPU is waited for: after the forward pass it would run dry.
        targets = masking.masked(acoustic[..., layer])
        x = self.model.embed(acoustic, masking.mask, layer, masking.prompt)
        valid = frame_mask(frames, ssl.shape[1])
        hidden = self.model.hidden(x, self.model.condition(ssl, layer), masking.t, valid)
        logits = self.model.to_logits[layer](masking.masked(hidden))
        scores = self.score_masked(logits, targets, masking)
        return {**scores, f"loss_layer{layer}": scores["loss"]} if self.training else scores


class FirstLayerModule(SemanticToAcousticModule):
    """The same for the first quantizer layer's model: a class of its own, to which a scale says its own sizes."""


class TokenCache:
    """Both kinds of tokens of a batch, computed once for each utterance id: encoding costs more than a nano step.

    With `keep`, tokens take 4.5 MiB an hour, and an id must stand for a whole waveform; None keeps what is on the CPU.
    Without it a batch is encoded as one, which a fast device wants.
    """

    def __init__(self, tokenizer: SpeechTokenizer, keep: bool | None = True) -> None:
        self.tokenizer, self.keep = tokenizer, keep
        # SSL tokens (T,) and acoustic tokens (T, Q) in int16, and the length and checksum of their audio.
        self._rows: dict[str, tuple[Tensor, Tensor, list[int]]] = {}

    def tokens(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (B, T), (B, T, Q) and frame counts (B,) of a batch. A `UserError` if an id's audio changed."""
        device = batch.wave.device
        if not (device.type == "cpu" if self.keep is None else self.keep):
            return self._encode(batch.wave, batch.lengths)
        inside = frame_mask(batch.lengths, batch.wave.shape[1])
        # Of the bits, each times its place: unlike a sum of floats it is the same in whatever order a device adds up.
        places = torch.arange(1, batch.wave.shape[1] + 1, device=device)
        checksums = (batch.wave.float().contiguous().view(torch.int32) * places).masked_fill(~inside, 0).sum(dim=1)
        rows = []
        # A GPU is waited for once, for all rows.
        for row, audio in enumerate(torch.stack([batch.lengths, checksums], dim=1).tolist()):
            name = batch.ids[row]
            if name not in self._rows:
                wave = batch.wave[row : row + 1, : audio[0]]
                ssl, acoustic, _ = self._encode(wave, batch.lengths[row : row + 1])
                self._rows[name] = (ssl[0].short().cpu(), acoustic[0].short().cpu(), audio)
            elif self._rows[name][2] != audio:
                raise UserError(
                    f"utterance {name!r} came twice with different audio, but its tokens are kept in memory: give "
                    "whole utterances (PlainRecipe without a length), or set model.cache_tokens to false"
                )
            rows.append(self._rows[name])
        kinds = ([ssl for ssl, _, _ in rows], [acoustic for _, acoustic, _ in rows])
        ssl, acoustic = (pad_sequence(kind, batch_first=True).to(device).long() for kind in kinds)
        return ssl, acoustic, torch.tensor([len(row) for row in kinds[0]], device=device)

    def _encode(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ssl, frames = self.tokenizer.ssl_tokens(wave, lengths)
        # The codec gives a frame more than the SSL front end, whose last window would reach past the end.
        acoustic = self.tokenizer.acoustic_tokens(wave, lengths)[:, : ssl.shape[1]]
        return ssl, acoustic, frames
