import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from metis_lightning.bench.throughput import (
    ResidentMemory,
    make_clips,
    measure_memory,
    processor_seconds,
    resident_megabytes,
)
from metis_lightning.cli.main import main


def test_it_says_speed_costs_and_memory() -> None:
    command = [sys.executable, "-m", "metis_lightning", "bench", "evaluate", "--clips", "2", "--memory-clips", "4"]
    done = subprocess.run([*command, "--seconds", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["clips", "speed", "processors", "each", "memory", "slope"]
    costs = dict(cost.rsplit(" ", 2)[:2] for cost in lines[3].removeprefix("each metric").strip().split("; "))
    assert set(costs) >= {"Dnsmos", "Pesq", "NarrowBandPesq", "Stoi", "SiSdr"}
    assert int(costs["Dnsmos"]) > int(costs["SiSdr"])


def test_clips_are_speech_that_gets_noisier() -> None:
    clips = list(islice(make_clips(1.0), 4))
    again = list(islice(make_clips(1.0), 4))
    ratios = []
    for clip, other in zip(clips, again, strict=True):
        np.testing.assert_array_equal(clip.generated, other.generated)
        assert clip.reference is not None
        ratios.append(10 * np.log10(np.var(clip.reference) / np.var(clip.generated - clip.reference)))
    assert ratios == pytest.approx([20, 10, 5, 0], abs=0.3)


def test_slope_is_that_of_the_second_half() -> None:
    growing = ResidentMemory([100, 200, 300, 400], [500.0, 900.0, 1000.0, 1001.0])
    assert growing.slope == pytest.approx(10.0)
    flat = measure_memory(iter([{}] * 80), 80, lambda: 5.0)
    assert len(flat.clips) == 40
    assert flat.slope == pytest.approx(0.0, abs=1e-9)
    before = processor_seconds()
    json.dumps(list(range(2_000_000)))
    assert processor_seconds() > before
    assert 50 < resident_megabytes() < 10_000


def test_a_missing_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "evaluate", "--clips", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err
