"""`prepare tokens` and `bench data` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from documented import REPOSITORY
from metis_lightning.cli import main as cli

CONFIG = ["-c", str(REPOSITORY / "configs/semantic_to_acoustic.yaml")]
LITTLE = ["--data.max_seconds=1.9", "--data.batch_seconds=10", "--data.speeds=[1.0]"]
RUN = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def arguments(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stage 2 of tiny sizes on the shortest utterances."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metis_lightning"])
    sizes = {"num_quantizers": 3, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    vocabularies = {"codebook_size": 32, "semantic_codebook_size": 32}
    stage2 = [f"--model.stage2.{name}={value}" for name, value in (sizes | vocabularies).items()]
    return [*CONFIG, *LITTLE, *RUN, f"--model.tokenizer={tiny_bundle}", *stage2]


def test_tokens_are_prepared_and_trained_on(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prepare = ["prepare", "tokens", "--out", "tokens", *arguments]
    assert cli.main(prepare) == 0
    said = capsys.readouterr().out.splitlines()[-3:]
    assert said[0].startswith("59 utterances, 0.0")
    assert "59 arrays in 1 shards" in said[1]
    written = sorted(Path("tokens").rglob("*.safetensors"))
    assert sorted(path.parent.name.split("-")[0] for path in written) == ["acoustic", "ssl"]
    assert cli.main(prepare) == 0
    assert sorted(Path("tokens").rglob("*.safetensors")) == written

    fit = ["fit", *arguments, "--data.tokens=tokens", "--trainer.max_steps=2", "--trainer.limit_val_batches=1"]
    assert cli.main([*fit, "--trainer.val_check_interval=2"]) == 0
    capsys.readouterr()
    assert cli.main(["bench", "data", "--seconds", "1", *arguments, "--data.tokens=tokens"]) == 0
    lines = capsys.readouterr().out
    assert "57 utterances" in lines
    assert "read from token store tokens" in lines
    assert "hours of audio a second with 0 workers" in lines


def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", "tokens", "--out", "tokens", "--kinds", "lips", *arguments]) == 2
    assert "--kinds: unknown lips; choose from ssl, acoustic, features" in capsys.readouterr().err
    assert cli.main(["prepare", "tokens", *arguments]) == 2
    assert "--out" in capsys.readouterr().err
    config = ["-c", str(REPOSITORY / "configs/semantic_codec.yaml"), *RUN]
    assert cli.main(["prepare", "tokens", "--out", "tokens", *config]) == 2
    assert "trains on audio and makes no use of tokens" in capsys.readouterr().err
    assert cli.main(["fit", *arguments, "--data.tokens=nowhere"]) == 2
    assert "run `prepare tokens` with this config" in capsys.readouterr().err
