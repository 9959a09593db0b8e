"""`generate`: what is asked for, made, written, and shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.files import check_output
from metis_lightning.generate.index import INDEX, Done
from metis_lightning.generate.inputs import check_texts, length_remarks, read_prompt_of, result_seconds
from metis_lightning.generate.jobs import Job, folder_input, jobs_of
from metis_lightning.generate.options import GenerateOptions
from metis_lightning.generate.play_list import write_play_list
from metis_lightning.generate.progress import Progress
from metis_lightning.generate.runner import Maker
from metis_lightning.generate.weights import chosen_precision, identity, lip_reader, load_metis
from metis_lightning.pipeline import Options


def run_generate(options: GenerateOptions) -> None:
    """Run the verb `generate`.

    Raises:
        UserError: for a mistake in the options or the inputs. Of a list or a folder, what is usable was made before.
    """
    if options.play_list is not None and options.play_list.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--play-list {options.play_list}: end it with .html")
    jobs = jobs_of(options)
    if options.play_list is not None:
        check_output(options.play_list, "--play-list")
    lips = lip_reader(options)
    if any("video" in job.inputs for job in jobs):
        _ = lips.encoder
    is_single = options.list is None and folder_input(options) is None
    if is_single:
        # Before the weights, which may be gigabytes, are read.
        read_prompt_of(jobs[0])
        result_seconds(jobs[0])
        failed = _made(maker_of(options), jobs, options, None)
    else:
        failed = _make_many(jobs, options)
    if failed and is_single:
        raise failed[0]
    print(f"{jobs[0].out}" if is_single else f"{options.out}: {len(jobs) - len(failed)} of {len(jobs)} files")
    if options.play_list is not None:
        write_play_list(options.play_list, f"{options.task}: {options.out}", jobs)
        print(f"play list: {options.play_list}")
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} could not be made, the first: {failed[0]}")


def maker_of(options: GenerateOptions) -> Maker:
    """Return what makes results as the options say.

    Raises:
        UserError: if the weights are not usable.
    """
    return Maker(
        load_metis(options.model, options.task, options),
        sampler_options(options),
        options.batch_seconds,
        options.chunk_seconds,
        lip_reader(options),
    )


def sampler_options(options: GenerateOptions) -> Options:
    """Return the settings that are given; the others stay as released."""
    chosen = Options()
    if options.num_steps is not None:
        chosen["num_steps"] = options.num_steps
    if options.guidance_scale is not None:
        chosen["guidance_scale"] = options.guidance_scale
    if options.temperature is not None:
        chosen["temperature"] = options.temperature
    if options.stage2_steps is not None:
        first, second, other = options.stage2_steps
        chosen["stage2_steps"] = (first, second, other)
    return chosen


def _make_many(jobs: Sequence[Job], options: GenerateOptions) -> list[UserError]:
    """Make what a folder of results lacks, and return the mistakes that kept some from being made."""
    check_output(options.out / INDEX)
    done = Done(options.out, _run(options))
    missing = [job for job in jobs if not done.has(job)]
    if len(missing) < len(jobs):
        print(f"{len(jobs) - len(missing)} of {len(jobs)} are there already and unchanged", file=sys.stderr)
    return _made(maker_of(options), missing, options, done) if missing else []


def _made(maker: Maker, jobs: Sequence[Job], options: GenerateOptions, done: Done | None) -> list[UserError]:
    """Make jobs, and return the mistakes that kept some from being made."""
    failed: list[UserError] = []
    readable = []
    said: set[str] = set()
    with Progress(_total_seconds(jobs), f"generate {options.task}") as progress:

        def ended(job: Job, error: UserError | None) -> None:
            if error is not None:
                failed.append(_located(job, error))
                if done is not None:
                    progress.say(f"metis-lightning: {failed[-1]}")
            elif done is not None:
                done.add(job)

        for job in jobs:
            try:
                check_texts(job, maker.metis.text)
                for remark in length_remarks(job):
                    if remark not in said:
                        progress.say(f"metis-lightning: {remark}")
                        said.add(remark)
            except UserError as error:
                ended(job, error)
            else:
                readable.append(job)
        maker.make(readable, ended, progress.add)
    return failed


def _located(job: Job, error: UserError) -> UserError:
    """Return a mistake with the line of the list that it is in."""
    return error if str(error).startswith(job.where) else UserError(f"{job.where}{error}")


def _total_seconds(jobs: Sequence[Job]) -> float:
    total = 0.0
    for job in jobs:
        try:
            total += result_seconds(job)
        except UserError:
            # It is reported when its turn comes.
            continue
    return total


def _run(options: GenerateOptions) -> Mapping[str, Any]:
    """Return what decides all results of a run alike."""
    precision = chosen_precision(options)
    return {
        **identity(options.model, options),
        **sampler_options(options),
        "chunk_seconds": options.chunk_seconds,
        # What was made before there was a choice was made in float32, and need not be made again.
        **({} if precision == "float32" else {"precision": precision}),
    }
