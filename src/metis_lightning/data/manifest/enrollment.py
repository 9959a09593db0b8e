"""Enrollment lists of LibriMix: which utterance enrolls the target of a mixture, in BUT Speech's format, read or drawn.

A line is `mixture_ID target_utterance s{1,2,…}/other_mixture_ID` (`map_mixture2enrollment` of
github.com/BUTSpeechFIT/speakerbeam, used by WeSep too): the enrollment is that source of that other mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from metis_lightning.data.manifest.test_sets import hash_order
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.texts import read_lines


class MixtureSource(NamedTuple):
    """A source of a mixture: the mixture's id and the source's number, from 1."""

    mixture: str
    number: int

    @property
    def utterance(self) -> str:
        """The LibriSpeech utterance that it is made of."""
        return self.mixture.split("_")[self.number - 1]

    @property
    def speaker(self) -> str:
        """Its LibriSpeech speaker."""
        return self.utterance.split("-")[0]

    @property
    def id(self) -> str:
        """Its id in a manifest."""
        return f"{self.mixture}_s{self.number}"


def parse_source(utterance_id: str) -> MixtureSource:
    """Return the source that a manifest's id names.

    >>> parse_source("1-2-3_4-5-6_s2")
    MixtureSource(mixture='1-2-3_4-5-6', number=2)
    """
    mixture, _, number = utterance_id.rpartition("_s")
    return MixtureSource(mixture, int(number))


def read_enrollments(path: Path) -> dict[MixtureSource, MixtureSource]:
    """Map targets to their enrollments, from a list.

    Raises:
        UserError: naming file and line, if one is not of the format, or its target is not in its mixture.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such enrollment list")
    enrollments = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            mixture, utterance, place = line.split()
            folder, other = place.split("/")
            target = MixtureSource(mixture, mixture.split("_").index(utterance) + 1)
            enrollments[target] = MixtureSource(other, int(folder.removeprefix("s")))
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: expected `mixture_ID target_utterance sN/other_mixture_ID` ({error})"
            ) from error
    return enrollments


def draw_enrollments(sources: Iterable[MixtureSource]) -> dict[MixtureSource, MixtureSource]:
    """Choose for each source one of another utterance of its speaker: the smallest by the SHA-256 of both.

    Raises:
        UserError: if a speaker says one utterance only.
    """
    by_speaker: dict[str, list[MixtureSource]] = {}
    targets = list(sources)
    for source in targets:
        by_speaker.setdefault(source.speaker, []).append(source)
    enrollments = {}
    for target in targets:
        # Not another mixture of the same recording: it would be the target itself.
        others = [source for source in by_speaker[target.speaker] if source.utterance != target.utterance]
        if not others:
            raise UserError(
                f"no other utterance of speaker {target.speaker} enrolls {target.id}; give an enrollment list"
            )
        enrollments[target] = min(others, key=lambda other: hash_order(target.id, other.id))
    return enrollments


def write_enrollments(path: Path, enrollments: Mapping[MixtureSource, MixtureSource]) -> None:
    """Write a list that `read_enrollments` reads, complete or not at all."""
    lines = (f"{t.mixture} {t.utterance} s{e.number}/{e.mixture}\n" for t, e in enrollments.items())
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
