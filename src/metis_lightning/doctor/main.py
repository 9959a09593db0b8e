"""`doctor`: looks at the environment and, with a config, at all that its run needs; a line each, with the cure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from metis_lightning.errors import UserError
from metis_lightning.options import CommandOptions, option


@dataclass(frozen=True)
class Finding:
    """What a check found: where it looked, whether a run would fail (`fault`) or suffer (`note`), and what helps."""

    check: str
    status: Literal["ok", "note", "fault"]
    text: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(CommandOptions):
    """Options of `doctor`."""

    json: bool = option("print one JSON object instead of lines", False)
    files: int = option("utterances of each split that are decoded and made into items", 20, metavar="N", least=1)
    no_steps: bool = option("take no training step: no memory, no hours", False)
    largest_batch: bool = option("find the largest data.batch_seconds that fits, by bisection", False)
    memory_limit: float | None = option(
        "memory that a process may have, in GB (default: the device's)", None, metavar="GB", above=0
    )


def run_doctor(options: DoctorOptions, config: Sequence[str]) -> None:
    """Run `doctor`. A `UserError` if something would keep the run from working."""
    found = []
    for finding in _findings(options, config):
        found.append(finding)
        if not options.json:
            cure = f"; {finding.cure}" if finding.cure else ""
            print(f"{finding.status:<6} {finding.check:<12} {' '.join(finding.text.split())}{cure}", flush=True)
    faults = [finding for finding in found if finding.status == "fault"]
    if options.json:
        print(json.dumps({"faults": len(faults), "findings": [asdict(finding) for finding in found]}, indent=2))
    if faults:
        where = ", ".join(dict.fromkeys(finding.check for finding in faults))
        raise UserError(f"doctor: {len(faults)} of {len(found)} checks found a fault ({where}): each says its cure")


def _findings(options: DoctorOptions, config: Sequence[str]) -> Iterator[Finding]:
    from metis_lightning.doctor.environment import environment_findings

    yield from environment_findings()
    if not config:
        yield Finding("config", "note", "none was given", "-c CONFIG looks at what its run needs, too")
        return
    from metis_lightning.doctor.run import run_findings

    yield from run_findings(options, config)
