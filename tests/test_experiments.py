"""The README's table of experiments: complete, and true of the files, the paper's tables and the models."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
import yaml
from torch import nn

from documented import REPOSITORY, config_commands
from metis_lightning.evaluate.tables.benchmarks import read_benchmarks
from metis_lightning.models.lora import add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.tasks.finetune import FinetuneModule
from test_scale import at_paper_scale, build

FOLDER = REPOSITORY / "experiments"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
OURS = (1, 2, 3, 4, 5, 6, 7, 8, 11)
"""Tables with rows of Metis that our metrics can fill; 9 and 10 are listening tests."""

_LAYERS = {"lora": "LoRA", "cond_adapter": "adapter", "phone_emb": "phones", "cond_mlp": "phones"}


@dataclass(frozen=True)
class Entry:
    """A line of the table. rows: (table, system); trained: millions by what they belong to."""

    rows: tuple[tuple[int, str], ...]
    file: str
    data: str
    trained: dict[str, float]

    @property
    def hours(self) -> float | None:
        """The cap; None where the data are whole corpora, which stand beside a remark in brackets."""
        return None if "(" in self.data else float(self.data.split("K")[0]) * 1000


def _entry(rows: str, file: str, data: str, trained: str) -> Entry:
    named = (cell.split(": ") for cell in rows.split("; "))
    pairs = tuple((int(table), system) for tables, system in named for table in tables.split(", "))
    counts = (part.rsplit(" ", 1) for part in trained.split(" + "))
    return Entry(pairs, file, data, {what: float(count) for what, count in counts})


ENTRIES = [_entry(*cells) for cells in re.findall(r"^\| (\d.*) \| `(.*)` \| (.*) \| (.*) \|$", README, re.MULTILINE)]
COMMANDS = {words[2].removeprefix("experiments/"): at_paper_scale(words) for words in config_commands()}


def test_every_file_is_listed_once_and_exists() -> None:
    files = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("table_*/*.yaml"))
    assert sorted(entry.file for entry in ENTRIES) == files
    # A run lies with the first table that it fills a row of, and fills no row twice.
    assert all(entry.file.startswith(f"table_{min(entry.rows)[0]:02}/") for entry in ENTRIES)
    assert all(len(set(entry.rows)) == len(entry.rows) for entry in ENTRIES)


def test_every_row_of_ours_has_its_run() -> None:
    """Rows of one system that differ in their data are different runs; where a table names no data the run does."""
    listed = {(table, system, entry.data) for entry in ENTRIES for table, system in entry.rows}
    assert len(listed) == sum(len(entry.rows) for entry in ENTRIES)
    data = {(table, system): entry.data for entry in ENTRIES for table, system in entry.rows}
    benchmarks = [table for table in read_benchmarks(REPOSITORY / "evaluation/benchmarks") if table.table in OURS]
    printed = {
        (table.table, row.system, row.train_data or data.get((table.table, row.system)))
        for table in benchmarks
        for row in table.rows
        if row.system.startswith("Metis")
    }
    assert len(benchmarks) == len(OURS)
    assert listed == printed


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.file.removesuffix(".yaml"))
def test_a_run_is_what_its_line_says(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    cli = build(COMMANDS[entry.file])
    assert isinstance(cli.model, FinetuneModule)
    systems = {system for _, system in entry.rows}
    rank = re.search(r"LoRA (\d+)", min(systems))
    assert cli.model.extension.lora_rank == (int(rank[1]) if rank else 0)
    assert {system.split()[0].lower() for system in systems} == {f"metis-{cli.model.task}"}
    assert cli.datamodule.hours == entry.hours
    assert cli.trainer.logger.name == entry.file.removesuffix(".yaml").replace("/", "_")
    overrides = yaml.safe_load((FOLDER / entry.file).read_text()).get("model", {}).get("init_args", {})
    assert overrides.get("from_scratch", False) == any("w.o. pre-train" in system for system in systems)
    assert _trained(cli.model.model) == pytest.approx(entry.trained, abs=0.05 if "stage 1" in entry.trained else 0.005)


def _trained(model: nn.Module) -> dict[str, float]:
    """Millions of trained parameters by what they belong to."""
    counts: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            what = next((layers for part, layers in _LAYERS.items() if part in name), "stage 1")
            counts[what] = counts.get(what, 0) + parameter.numel() / 1e6
    return counts


def test_the_steps_that_the_paper_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    files = ("table_01/tts_scratch_10k.yaml", "table_02/vc_lora_16.yaml", "table_02/vc_finetune.yaml")
    assert [build(COMMANDS[file]).trainer.max_steps for file in files] == [200_000, 10_000, 5_000]


def test_the_counts_in_the_text() -> None:
    with torch.device("meta"):
        plain, phones, lora = Stage1(Stage1Config()), Stage1(Stage1Config(use_phone_cond=True)), Stage1(Stage1Config())
        add_lora(lora, 1)
        stage2 = [SemanticToAcoustic(SemanticToAcousticConfig(num_quantizers=count)) for count in (12, 1)]
    of_a_rank = _trained(lora)["LoRA"]
    assert f"{of_a_rank * 1e6:,.0f} a rank" in README
    adapter, text = (next(e.trained[what] for e in ENTRIES if what in e.trained) for what in ("adapter", "phones"))
    totals = [32 * of_a_rank + adapter, 4 * of_a_rank + adapter, 32 * of_a_rank + text]
    totals += [sum(p.numel() for p in model.parameters()) / 1e6 for model in (plain, phones, *stage2)]
    paragraph = README.split("## What the paper counts")[1].split("\n## ")[0]
    found = [float(number) for number in re.findall(r"(\d+\.\d)M", paragraph)]
    assert found == [round(total, 1) for total in totals]
