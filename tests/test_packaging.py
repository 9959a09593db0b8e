"""What an installed package brings: the paper's rows, messages that name extras, completion, containers, citation."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import metis_lightning
from documented import REPOSITORY
from metis_lightning.cli import command
from metis_lightning.cli.main import COMMANDS, main
from metis_lightning.tokens import phonemes

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_tables_work_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tables", "--out", "made"]) == 0
    assert "Metis-TSE LoRA 32" in (tmp_path / "made/table_03.md").read_text()
    assert main(["tables", "--out", "made", "--benchmarks", "nowhere"]) == 2
    # What the wheel holds in the package's folder.
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["evaluation/benchmarks"] == "metis_lightning/benchmarks"
    for folder in included:
        assert any((REPOSITORY / folder).rglob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "absent", "expected"),
    [
        (
            ["evaluate", "--task", "tse"],
            {"pesq", "faster_whisper"},
            "evaluate needs pesq, faster_whisper: pip install 'metis-lightning[eval,offline]'",
        ),
        (["app"], {"gradio"}, "app needs gradio: pip install 'metis-lightning[demo]'"),
    ],
)
def test_a_missing_extra_is_named_before_anything_runs(
    words: list[str],
    absent: set[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name in absent else found("json"))
    assert main(words) == 2
    assert capsys.readouterr().err.strip() == f"metis-lightning: error: {expected}"


def test_packages_of_commands_are_in_the_extras_that_they_name() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for each in COMMANDS.values():
        if each.options.__name__ not in ("EvaluateOptions", "AppOptions"):
            continue
        options = each.options(**({"task": "tse"} if each.options.__name__ == "EvaluateOptions" else {}))
        for module, extra in options.packages().items():
            names = {re.split(r"[><=\[]", text)[0].replace("-", "_") for text in extras[extra]}
            assert module in names


def test_a_text_front_end_that_may_not_be_needed_says_so_at_the_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise phonemes.UserError("the text front end 'espeak' needs the extra 'text'")

    monkeypatch.setattr(phonemes, "espeak_backend", absent)
    with pytest.raises(phonemes.UserError, match="needs the extra"):
        phonemes.text_front_end("espeak")
    assert phonemes.text_front_end("espeak", is_needed=False).name == "espeak"


def test_the_shell_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    for words, expected in (
        (["pr"], {"predict", "prepare"}),
        (["prepare", "lib"], {"librimix", "librispeech"}),
        (["generate", "--temp"], {"--temperature"}),
        (["prepare", "emilia", "--ou"], {"--out"}),
    ):
        line = " ".join(f"'{word}'" for word in ["metis-lightning", *words])
        typed = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _metis_lightning; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == expected


def test_the_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    version = metis_lightning.__version__
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metis-lightning {version}\n"
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## [{version}] - " in (REPOSITORY / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_containers_install_extras_that_there_are(name: str) -> None:
    text = (REPOSITORY / f"docker/{name}.Dockerfile").read_text()
    extras = re.search(r"/src\[([a-z,]+)\]", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert 'ENTRYPOINT ["metis-lightning"]' in text
    assert PROJECT["project"]["scripts"]["metis-lightning"] == "metis_lightning.cli.main:main"


def test_the_notebook_does_what_make_demo_does() -> None:
    cells = json.loads((REPOSITORY / "notebooks/demo.ipynb").read_text())["cells"]
    lines = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]
    recipe = (REPOSITORY / "Makefile").read_text().split("\ndemo:")[1].split("\n\n")[0]
    steps = re.findall(r"^\t(\$\((?:METIS|VENV_PYTHON)\).*)$", recipe, re.MULTILINE)
    named = [
        step.replace("$(METIS)", "python -m metis_lightning").replace("$(VENV_PYTHON)", "python") for step in steps
    ]
    assert [line[1:] for line in lines if line.startswith("!")] == named
    for line in lines:
        if not line.startswith(("!", "%")):
            compile(line, "notebook", "exec")
