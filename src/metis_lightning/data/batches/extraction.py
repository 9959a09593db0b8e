"""What a token store still lacks of a corpus: audio in batches of similar length, shared by the processes.

Shape letters: B batch, S samples at 24 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from metis_lightning.data.batches.sampler import process_rank, process_world_size
from metis_lightning.data.manifest.corpus import SpeechCorpus, as_wave
from metis_lightning.data.token_store.store import Recording, TokenStore, audio_hash, stamp_of
from metis_lightning.errors import UserError
from metis_lightning.files import digest64


@dataclass(frozen=True)
class RecordingBatch:
    """Whole recordings: wave (B, S) float32 at 24 kHz, zeros after `lengths` (B,) samples, and which they are."""

    recordings: tuple[Recording, ...]
    wave: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RecordingBatch:
        """Return the same batch with its tensors on `device`."""
        return RecordingBatch(
            self.recordings,
            self.wave.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )


class _Recordings(Dataset[tuple[Recording, Tensor]]):
    def __init__(self, corpora: Sequence[SpeechCorpus]) -> None:
        self.corpora = corpora

    def __getitem__(self, place: tuple[int, int]) -> tuple[Recording, Tensor]:
        corpus, index = self.corpora[place[0]], place[1]
        utterance = corpus.utterances[index]
        samples = corpus.samples(index)
        stamp = stamp_of(utterance)
        return Recording(digest64(utterance.id), stamp, audio_hash(samples), len(samples)), as_wave(samples)


def _collate(items: Sequence[tuple[Recording, Tensor]]) -> RecordingBatch:
    waves = [wave for _, wave in items]
    lengths = torch.tensor([len(wave) for wave in waves])
    return RecordingBatch(tuple(recording for recording, _ in items), pad_sequence(waves, batch_first=True), lengths)


class MissingTokens:
    """The batches of this process: the recordings that some of the stores lack, shortest first.

    The shares follow from the whole corpus, not from what is stored: processes that look while others write agree.
    """

    def __init__(
        self, corpora: Sequence[SpeechCorpus], stores: Sequence[TokenStore], batch_seconds: float, num_workers: int = 0
    ) -> None:
        """Plan the batches.

        Raises:
            UserError: if there is no utterance.
        """
        # Each recording is read once: nothing is gained by keeping it.
        self.corpora = tuple(SpeechCorpus(corpus.utterances, cache=False) for corpus in corpora)
        self.stores, self.num_workers = tuple(stores), num_workers
        self.batch_seconds = batch_seconds
        if not sum(map(len, corpora)):
            raise UserError("no utterances to make tokens of; check the data root, the splits and max_seconds")
        self._batches = [left for batch in self._share() if (left := [place for place in batch if self._lacks(place)])]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    @property
    def recordings(self) -> int:
        """Number of recordings in them."""
        return sum(map(len, self._batches))

    def __iter__(self) -> Iterator[RecordingBatch]:
        """Read the batches."""
        loader = DataLoader(
            _Recordings(self.corpora),
            batch_sampler=self._batches,
            collate_fn=_collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        yield from loader

    def _share(self) -> list[list[tuple[int, int]]]:
        """Return this process's batches of (corpus, index), as if nothing was stored."""
        places = [(number, index) for number, corpus in enumerate(self.corpora) for index in range(len(corpus))]
        seconds = [self.corpora[number].seconds(index) for number, index in places]
        batches: list[list[tuple[int, int]]] = []
        for item in sorted(range(len(places)), key=seconds.__getitem__):
            # In ascending order the newest item is the longest of its batch.
            if not batches or seconds[item] * (len(batches[-1]) + 1) > self.batch_seconds:
                batches.append([])
            batches[-1].append(places[item])
        return batches[process_rank() :: process_world_size()]

    def _lacks(self, place: tuple[int, int]) -> bool:
        utterance = self.corpora[place[0]].utterances[place[1]]
        return not all(store.holds(utterance) for store in self.stores)
