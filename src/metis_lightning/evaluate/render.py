"""One table of the paper with our results, before it has a format."""

from __future__ import annotations

from collections.abc import Sequence

from metis_lightning.evaluate.benchmarks import Benchmark
from metis_lightning.evaluate.layout import Notes, Table
from metis_lightning.evaluate.our_sections import Group, our_groups, our_sections
from metis_lightning.evaluate.paper_section import paper_section
from metis_lightning.evaluate.runs import Result


def groups_of(benchmark: Benchmark, results: Sequence[Result], baseline: str | None) -> list[Group]:
    """Return our results that a table lists; `baseline` replaces the table's own choice."""
    if benchmark.ours is None:
        return []
    return our_groups(results, benchmark.ours, baseline or benchmark.ours.baseline)


def render(benchmark: Benchmark, results: Sequence[Result], groups: Sequence[Group]) -> Table:
    """Return a table: the paper's rows with ours under them, then all our results of its task."""
    notes = Notes()
    sections = (paper_section(benchmark, results, notes), *our_sections(groups, notes))
    return Table(benchmark.name, benchmark.table, benchmark.title, sections, notes.by_key())
