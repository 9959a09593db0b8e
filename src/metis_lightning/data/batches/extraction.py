"""Audio whose tokens a store lacks, in batches of similar length that the processes share.

Shape letters: B batch, S samples at 24 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from metis_lightning.data.batches.sampler import fill_batches, process_rank_and_count
from metis_lightning.data.manifest.corpus import FULL_SCALE, SpeechCorpus
from metis_lightning.data.token_store.store import AudioKey, TokenStore, audio_hash, stamp_of
from metis_lightning.errors import UserError
from metis_lightning.files import digest64


@dataclass(frozen=True)
class RecordingBatch:
    """Whole recordings: wave (B, S) float32 at 24 kHz, zeros after `lengths` (B,) samples, and which they are."""

    keys: tuple[AudioKey, ...]
    wave: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RecordingBatch:
        """Return the same batch with its tensors on `device`."""
        wave = self.wave.to(device, non_blocking=non_blocking)
        lengths = self.lengths.to(device, non_blocking=non_blocking)
        return RecordingBatch(self.keys, wave, lengths)


@dataclass(frozen=True)
class _KeyedAudio(Dataset[tuple[AudioKey, Tensor]]):
    """The recordings of several corpora, each read with its key, by (number of the corpus, index)."""

    corpora: Sequence[SpeechCorpus]

    def __getitem__(self, place: tuple[int, int]) -> tuple[AudioKey, Tensor]:
        corpus, index = self.corpora[place[0]], place[1]
        utterance = corpus.utterances[index]
        samples = corpus.samples(index)
        key = AudioKey(digest64(utterance.id), stamp_of(utterance), audio_hash(samples), len(samples))
        return key, samples / FULL_SCALE

    @staticmethod
    def collate(items: Sequence[tuple[AudioKey, Tensor]]) -> RecordingBatch:
        keys, waves = zip(*items, strict=True)
        lengths = torch.tensor([len(wave) for wave in waves])
        return RecordingBatch(keys, pad_sequence(list(waves), batch_first=True), lengths)


class MissingTokens:
    """The batches of this process: the recordings that some of the stores lack, shortest first."""

    def __init__(
        self, corpora: Sequence[SpeechCorpus], stores: Sequence[TokenStore], batch_seconds: float, num_workers: int = 0
    ) -> None:
        # Each recording is read once: nothing is gained by keeping it.
        self.corpora = tuple(SpeechCorpus(corpus.utterances, cache=False) for corpus in corpora)
        self.num_workers = num_workers
        places = [(number, index) for number, corpus in enumerate(corpora) for index in range(len(corpus))]
        if not places:
            raise UserError("no utterances to make tokens of; check the data root, the splits and max_seconds")
        seconds = [corpora[number].seconds(index) for number, index in places]
        order = sorted(range(len(places)), key=seconds.__getitem__)
        batches = list(fill_batches((seconds[i] for i in order), batch_seconds))
        # Shares of the whole corpus, not of what is missing: processes that look while others write agree.
        rank, processes = process_rank_and_count()
        self._batches: list[list[tuple[int, int]]] = []
        for batch in batches[rank::processes]:
            utterances = {place: corpora[place[0]].utterances[place[1]] for place in (places[order[i]] for i in batch)}
            if missing := [place for place, u in utterances.items() if not all(store.holds(u) for store in stores)]:
                self._batches.append(missing)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[RecordingBatch]:
        yield from DataLoader(
            _KeyedAudio(self.corpora),
            batch_sampler=self._batches,
            collate_fn=_KeyedAudio.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
