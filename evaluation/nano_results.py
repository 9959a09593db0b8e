"""Evaluates nano on every task that it has weights for, and stores what the tables and the page are made of.

    python evaluation/nano_results.py [--out evaluation/nano] [--bundle nano] [--unseen] [OPTIONS OF EVALUATE]

Test sets of the starter corpus, controls, the offline protocol. For lip to speech the mouths of other tasks' targets of
`test-unseen` are drawn (`experiments/nano/mouths.py`) and read by the bundle's visual encoder; `--blind` names the
checkpoint of a model that sees none. Every run works in `build/nano`, where one that was cut off goes on; when it is
finished, its rows, summary and protocol, and the clips that the page plays, are stored in `--out`. What is stored there
of other weights is removed first. `nano_page.py` does the rest. `--limit 4` is a trial, `--unseen` halves time and
size.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from nano_page import BLIND, CLIPS, MOUTH, NANO, OUT, PROMPT, examples
from PIL import Image
from torch import Tensor

from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.video import read_video
from metis_lightning.errors import UserError
from metis_lightning.evaluate.compare.clips import read_clips
from metis_lightning.evaluate.html.document import log_mel, picture
from metis_lightning.evaluate.results.comparison import read_comparison
from metis_lightning.evaluate.results.rows import ROWS
from metis_lightning.evaluate.results.runs import PROTOCOL, RUN_SUMMARY, Protocol
from metis_lightning.evaluate.run.systems import part_config
from metis_lightning.evaluate.run.test_sets import TestSet, find_test_sets
from metis_lightning.files import sha256_of
from metis_lightning.task_table import TASKS
from metis_lightning.types import VIDEO_RATE, WAVE_RATE
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, read_index

WORK = Path("build/nano")
DRAW = Path(__file__).resolve().parents[1] / "experiments/nano/mouths.py"
CORPUS, UNSEEN = "starter", "test-unseen"
# libsndfile's scale from 256 kbit/s (0) to 6 (1), for one channel: 24 kbit/s.
OPUS_LEVEL = (256 - 24) / (256 - 6)
WEBP_QUALITY = 60


@dataclass(frozen=True)
class NanoRun:
    """A run of `evaluate`: the name of its folder, the task, the controls if not all, and further options.

    mouths: folder of the videos that are read in the place of the starter corpus, with the manifest and the features.
    """

    name: str
    task: str
    controls: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    mouths: Path | None = None

    @property
    def corpus(self) -> Mapping[str, Any]:
        """What is evaluated on, as parameters of `find_test_sets`."""
        if self.mouths is None:
            return {"data": CORPUS, "root": None}
        files = (f"manifest={self.mouths / 'mouths.jsonl'}", f"features={self.mouths / 'lips'}")
        return {"data": "lips", "root": self.mouths, "options": files}


def planned_runs(bundle: str, is_unseen: bool = False, mouths: Path | None = None) -> list[NanoRun]:
    """Return the runs that a bundle's weights allow; `is_unseen` leaves out voices that were trained on.

    Lip to speech is of the videos in the folder `mouths`, or else of the stand-in that needs none. Omni's weights
    answer, beside TSE, as in the paper's table 6, what another part of the bundle answers too, with the controls that
    cost nothing: the others are those of the single tasks.
    """
    parts = {task: part_config(bundle, task) for task in TASKS}
    omni = parts.pop("omni")
    served = [task for task, part in parts.items() if part is not None]
    runs = [NanoRun(task, task, (), _unseen([task]) if is_unseen else ()) for task in served]
    if mouths is not None:
        runs = [run if run.name != "l2s" else NanoRun("l2s", "l2s", mouths=mouths) for run in runs]
    if omni is not None:
        tasks = [task for task in TASKS["omni"].covers if task == "tse" or parts[task] != omni]
        runs.append(NanoRun("omni", "omni", ("input", "target"), _unseen(tasks)))
        if omni.get("text"):
            runs.append(NanoRun("omni_text", "omni", ("input", "target"), ("--text-guided", "--test-sets", UNSEEN)))
    return runs


def _unseen(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the option that names the test sets of tasks whose voices were never trained on."""
    names = [each.name for task in tasks for each in find_test_sets(CORPUS, None, task)]
    return ("--test-sets", *(name for name in names if name.startswith(UNSEEN)))


def draw_mouths(bundle: str, folder: Path) -> None:
    """Draw the test set of lip to speech, and read it as any videos are read: the features are of this bundle."""
    files = ("--list", folder / "clips.jsonl", "--out", folder / "mouths.jsonl", "--features", folder / "lips")
    read = ("-m", "metis_lightning", "prepare", "video", "--root", folder, *files, "--encoder", bundle)
    for command in ((DRAW, "--splits", "test-unseen", "--out", folder), read):
        subprocess.run([sys.executable, *map(str, command)], check=True)


def evaluate(run: NanoRun, bundle: str, folder: Path, blind: Path | None, options: list[str]) -> None:
    """Make a run, or what is missing of it; `blind` is tested where there are mouths to be seen."""
    systems = ["--system", *run.controls, f"{NANO}={bundle}", "--base", bundle]
    if blind is not None and run.mouths is not None:
        systems.insert(-2, f"{BLIND}={blind}")
    command = [sys.executable, "-m", "metis_lightning", "evaluate", "--task", run.task, *systems, *run.options]
    if run.mouths is not None:
        command += ["--data", "lips", "--root", str(run.mouths), "--data-options", *run.corpus["options"]]
    # What fails is shown, and ends nothing.
    subprocess.run([*command, "--max-failed-share", "1", "--out", str(folder), *options], check=True)


def store(run: NanoRun, folder: Path, out: Path) -> None:
    """Store a finished run's files and the clips of its examples, in the place of earlier ones."""
    for old in (out / run.name, out / CLIPS / run.name):
        shutil.rmtree(old, ignore_errors=True)
    (out / run.name).mkdir(parents=True)
    for name in (ROWS, RUN_SUMMARY, PROTOCOL):
        shutil.copyfile(folder / name, out / run.name / name)
    comparison = read_comparison(folder, run.task, None)
    test_sets = {each.name: each for each in find_test_sets(task=run.task, **run.corpus)}
    for utterance, _ in examples(comparison):
        clips = read_clips(utterance, list(comparison.results), lambda path: read_audio(path, WAVE_RATE))
        waves = {system: clip.wave for system, clip in clips.clips.items()}
        waves |= _prompt(test_sets[utterance.test_set], utterance.id)
        for name, wave in waves.items():
            write_clip(out / CLIPS / run.name / utterance.id / name, wave, clips.top)
        if run.mouths is not None:
            write_mouth(out / CLIPS / run.name / utterance.id / MOUTH, run.mouths / f"video/{utterance.id}.mp4")


def _prompt(test_set: TestSet, item_id: str) -> Mapping[str, Tensor]:
    trial = next(trial for trial in test_set.trials if trial.id == item_id)
    prompt = test_set.reader.load_item(trial).enrollment
    return {} if prompt is None else {PROMPT: prompt}


def write_clip(path: Path, wave: Tensor, top: float) -> None:
    """Write a wave (S,) at 24 kHz as `path`.opus, and its spectrogram as `path`.webp, `top` dB the brightest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = wave.clamp(-1, 1).numpy().astype(np.float32)
    form = {"format": "OGG", "subtype": "OPUS", "compression_level": OPUS_LEVEL}
    soundfile.write(path.with_suffix(".opus"), samples, WAVE_RATE, **form)
    # A column for 20 ms, the louder of two.
    mel = log_mel(wave)
    mel = mel[:, : mel.shape[1] // 2 * 2].reshape(len(mel), -1, 2).max(2)
    Image.fromarray(picture(mel, top)).save(path.with_suffix(".webp"), quality=WEBP_QUALITY, method=6)


def write_mouth(path: Path, video: Path) -> None:
    """Write a video's pictures as `path`.webp, which moves."""
    first, *rest = map(Image.fromarray, read_video(video))
    moving = {"save_all": True, "append_images": rest, "duration": 1000 // VIDEO_RATE, "loop": 0}
    first.save(path.with_suffix(".webp"), quality=WEBP_QUALITY, method=6, **moving)


def remove_other_weights(out: Path, bundle_hash: str) -> None:
    """Remove the stored runs of other weights than those of this bundle."""
    for path in sorted(out.glob(f"*/{PROTOCOL}")):
        if Protocol.read(path.parent).identity(NANO).get("bundle") != bundle_hash:
            print(f"of other weights, removed: {path.parent}")
            for old in (path.parent, out / CLIPS / path.parent.name):
                shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Make and store all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="where results are stored")
    parser.add_argument("--bundle", default="nano", help="weights, of which all is called nano")
    parser.add_argument("--limit", type=int, help="only the first items of each test set")
    parser.add_argument("--blind", type=Path, help="checkpoint of lip to speech without lips, to compare with")
    parser.add_argument("--unseen", action="store_true", help="leave out the test sets of voices that were trained on")
    arguments, options = parser.parse_known_args()
    limit = [] if arguments.limit is None else ["--limit", str(arguments.limit)]
    try:
        bundle_hash = sha256_of(bundle_folder(arguments.bundle) / BUNDLE_INDEX)
        remove_other_weights(arguments.out, bundle_hash)
        kind = "_".join([bundle_hash[:8], *limit[1:], *["unseen"] * arguments.unseen])
        mouths = None
        if {"l2s", "visual_encoder"} <= set(read_index(bundle_folder(arguments.bundle))["parts"]):
            draw_mouths(arguments.bundle, mouths := WORK / kind / "mouths")
        for run in planned_runs(arguments.bundle, arguments.unseen, mouths):
            start, folder = time.monotonic(), WORK / kind / run.name
            evaluate(run, arguments.bundle, folder, arguments.blind, [*limit, *options])
            store(run, folder, arguments.out)
            print(f"{run.name}: {time.monotonic() - start:.0f} s, stored in {arguments.out / run.name}", flush=True)
    except UserError as error:
        print(f"nano_results: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
