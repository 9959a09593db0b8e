"""Rows of any task, answered together by `Metis`' methods: lists in, lists out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from metis_lightning.generate.inputs import Row, language_of, prompt_language_of
from metis_lightning.pipeline import Metis, Options, Speech


def answer(metis: Metis, rows: Sequence[Row], options: Options) -> list[Tensor]:
    """Return a wave (S,) at 24 kHz for each row; all are of one task.

    Raises:
        UserError: if the pipeline refuses a row, see its methods.
    """
    seeds = [row.seed for row in rows]
    return [speech.wave for speech in _ASK[rows[0].job.task](metis, rows, seed=seeds, **options)]


def _synthesize(metis: Metis, rows: Sequence[Row], **how: Any) -> list[Speech]:
    jobs = [row.job for row in rows]
    return metis.synthesize(
        [job.text("text") for job in jobs],
        _given(row.prompt for row in rows),
        [job.text("prompt_text") for job in jobs],
        [language_of(job) for job in jobs],
        [prompt_language_of(job) for job in jobs],
        [job.seconds for job in jobs],
        **how,
    )


def _extract(metis: Metis, rows: Sequence[Row], **how: Any) -> list[Speech]:
    jobs = [row.job for row in rows]
    return metis.extract(
        _given(row.source for row in rows),
        _given(row.prompt for row in rows),
        text=[job.text("text") for job in jobs],
        enrollment_text=[job.text("prompt_text") for job in jobs],
        language=[language_of(job) for job in jobs],
        **how,
    )


def _convert(metis: Metis, rows: Sequence[Row], **how: Any) -> list[Speech]:
    return metis.convert(_given(row.source for row in rows), _given(row.prompt for row in rows), **how)


def _enhance(metis: Metis, rows: Sequence[Row], **how: Any) -> list[Speech]:
    return metis.enhance(_given(row.source for row in rows), **how)


def _lip_to_speech(metis: Metis, rows: Sequence[Row], **how: Any) -> list[Speech]:
    return metis.lip_to_speech(_given(row.features for row in rows), _given(row.prompt for row in rows), **how)


def _given(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Return inputs that `check_job` made sure of."""
    found = [tensor for tensor in tensors if tensor is not None]
    if not found:
        raise ValueError("an input that the task needs was not read")
    return found


_ASK: Mapping[str, Callable[..., list[Speech]]] = {
    "tts": _synthesize,
    "vc": _convert,
    "tse": _extract,
    "se": _enhance,
    "l2s": _lip_to_speech,
}
