"""Options of `evaluate`, `tables` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metis_lightning.options import CommandOptions, Device, Precision, option
from metis_lightning.sampling.settings import Preset

BENCHMARKS = Path("evaluation/benchmarks")
# Several values of one option.
Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommandOptions):
    """Options of `evaluate`: what is run on which items, what scores it, and where."""

    task: str = option("what is evaluated: tts, vc, tse, se, l2s, omni")
    system: Names = option(
        "bundles, checkpoints, folders of audio by other tools (wavs:DIR, files named ID.wav), or the controls input, "
        "target, resynthesis, oracle; NAME=S gives one a name (default: the bundle nano, where it does the task)",
        (),
        metavar="S",
    )
    no_controls: bool = option("leave out the controls, which come first where none is named", False)
    data: str = option("corpus of the test sets; starter is embedded", "starter", metavar="D")
    root: Path | None = option("folder of the corpus", None, metavar="DIR")
    data_options: Names = option("more about its test sets, e.g. manifest=libri3mix.jsonl", (), metavar="NAME=VALUE")
    test_sets: Names | None = option("test sets to run (default: all of the task)", None, metavar="SET")
    export: Path | None = option(
        "write the items for other tools instead (wavs, list.jsonl, wav.scp), and run nothing", None, metavar="DIR"
    )

    protocol: str = option("which metric models to use, offline or paper", "offline", metavar="P")
    asr: Names | None = option("recognisers, [LANGUAGE=]KIND[:SOURCE] (default: the protocol's)", None, metavar="M")
    speakers: Names | None = option("speaker encoders, KIND[:SOURCE] (default: the protocol's)", None, metavar="M")
    nisqa: str | None = option("NISQA's published nisqa.tar (default: no NISQA)", None, metavar="FILE")
    metrics: Names = option(
        "further metrics: distillmos, f0, per, ... (all: those that need no path), KIND:PATH, MODULE:FUNCTION",
        (),
        metavar="M",
    )
    normalizer: str | None = option(
        "of texts: whisper, whisper-english, seed-tts or none (default: the protocol's)", None, metavar="RULES"
    )

    limit: int | None = option("only the first N items of each test set", None, metavar="N", least=1)
    seeds: tuple[int, ...] = option("seeds of the sampler", (0,), metavar="K", aliases=("--seed",))
    preset: Preset | None = option("fewer steps of both stages (default: released)", None)
    num_steps: int | None = option("sampling steps (default: those released for the task)", None, metavar="N", least=1)
    guidance_scale: float | None = option(
        "guidance of stage 1 (default: that released for the task)", None, metavar="W"
    )
    text_guided: bool = option("tell weights that read text what the target says (tse, omni)", False)
    tts_length: Literal["predicted", "reference"] = option(
        "how long speech from text is: by the prompt's speaking rate, or as the recording", "predicted"
    )
    base: str = option("bundle of checkpoints, of resynthesis and of oracle", "nano", metavar="BUNDLE")

    out: Path | None = option("folder of the results (default: evaluation/results/TASK)", None, metavar="DIR")
    device: Device | None = option("where to run (default: cuda where there is one)", None)
    precision: Precision | None = option("of both stages (default: bfloat16 on a GPU, float32 elsewhere)", None)
    devices: int = option("processes, each with a share of the items", 1, metavar="N", least=1)
    scoring_processes: int = option("of each of them, beside it", 1, metavar="N", least=1)
    max_failed_share: float = option(
        "exit with status 2 if a metric failed on a larger share of a test set", 0.1, metavar="X", least=0, most=1
    )

    def packages(self) -> Mapping[str, str]:
        """Return what scores; a recogniser that is named brings its own message."""
        metrics = ("pesq", "pystoi", "onnxruntime", "speechmos", "whisper_normalizer")
        recognizer = {"faster_whisper": "offline"} if self.asr is None and self.protocol == "offline" else {}
        return {} if self.export else dict.fromkeys(metrics, "eval") | recognizer


@dataclass(frozen=True, kw_only=True)
class TablesOptions(CommandOptions):
    """Options of `tables`: folders of results, of the paper's rows and of the tables."""

    results: Path | None = option("folder of runs, or one run (default: evaluation/results)", None, metavar="DIR")
    out: Path = option("folder that the tables are written to", Path("evaluation/tables"), metavar="DIR")
    benchmarks: Path = option("folder with the paper's rows", BENCHMARKS, metavar="DIR")
    baseline: str | None = option(
        "system that ours are tested against (default: as the benchmark file says)", None, metavar="S"
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(CommandOptions):
    """Options of `compare`: which systems' results, and in which order utterances are shown."""

    task: str = option("whose results are compared, e.g. tse")
    systems: Names | None = option("names in the results, or RUN/SYSTEM (default: all)", None, metavar="S")
    results: Path = option("folder with one folder a run, or one run", Path("evaluation/results"), metavar="DIR")
    out: Path | None = option("folder of the page (default: evaluation/compare/TASK)", None, metavar="DIR")
    limit: int = option("only the N worst utterances", 50, metavar="N", least=1)
    sort: str | None = option(
        "what worst is, of the first system that is no control (default: WER)", None, metavar="METRIC"
    )
