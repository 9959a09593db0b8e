"""`import`: what is refused, what is kept, what is noted; and from waveform to waveform with what was imported."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

pytest.importorskip("transformers")

from metis_lightning.cli.main import main
from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.models.lora import add_lora, merge_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import GatedAdapter, PlainAdapter, Stage1
from metis_lightning.pipeline import Metis, Request, Settings
from metis_lightning.sampling.settings import Sampling
from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.visual.encoder import LIP_DIM
from metis_lightning.tokens.w2v_bert import W2vBertFeatures
from metis_lightning.weights.build import plain_config
from metis_lightning.weights.bundle import BUNDLE_INDEX, read_index
from metis_lightning.weights.published.convert import LICENCES
from parity_vectors import FOLDER, read
from published_layout import write, write_consistent, write_shared
from tiny import ACOUSTIC, STAGE1, WIDTH, stage2_config

FEATURES = read(FOLDER / "semantic_codec.safetensors")[0]["hidden_size"]
"""Width of the tiny encoder of `write_shared`."""

SEMANTIC = SemanticCodecConfig(STAGE1.codebook_size, FEATURES, 4, WIDTH, WIDTH, 1)
SHORT = Settings(stage1=Sampling(num_steps=3), stage2_steps=(2, 2, 1))


def models() -> dict[str, nn.Module]:
    """Random models whose widths fit each other, by the names of a bundle's parts; `tse_lora` is a LoRA on `stage1`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = Stage1(STAGE1)
        lora = Stage1(STAGE1, GatedAdapter(FEATURES, WIDTH))
        lora.load_state_dict(base.state_dict(), strict=False)
        add_lora(lora, 4)
        made: dict[str, nn.Module] = {
            "semantic_codec": SemanticCodec(SEMANTIC),
            "acoustic_codec": AcousticCodec(ACOUSTIC),
            "s2a_1layer": SemanticToAcoustic(stage2_config(1, 0)),
            "s2a_full": SemanticToAcoustic(stage2_config(3, 1)),
            "stage1": base,
            "tse_lora": lora,
            "se": Stage1(STAGE1, GatedAdapter(FEATURES, WIDTH)),
            "vc": Stage1(STAGE1, GatedAdapter(FEATURES, WIDTH)),
            "l2s": Stage1(STAGE1, PlainAdapter(LIP_DIM, WIDTH)),
            "omni": Stage1(STAGE1, GatedAdapter(FEATURES, WIDTH)),
        }
        made["omni"].add_phones()  # type: ignore[operator]
        for model in made.values():
            for name, parameter in model.named_parameters():
                # What starts at 0 would hide that it was not imported.
                if "lora_B" in name or "gate_scale" in name:
                    nn.init.normal_(parameter)
    return made


def tensors(made: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    states = {name: dict(model.state_dict()) for name, model in made.items()}
    states["tse_lora"] = {k: v for k, v in states["tse_lora"].items() if "lora_" in k or "cond_adapter" in k}
    return states


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the published layout whose files do not state their sizes."""
    return write_consistent(write_shared(tmp_path_factory.mktemp("published")), tensors(models()))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of sizes only."""
    folder = tmp_path_factory.mktemp("sizes")
    configs = {
        "semantic_codec": SEMANTIC,
        "acoustic_codec": ACOUSTIC,
        "stage1": STAGE1,
        "s2a_1layer": stage2_config(1, 0),
        "s2a_full": stage2_config(3, 1),
    }
    index = {"parts": {name: {"config": plain_config(config)} for name, config in configs.items()}}
    (folder / BUNDLE_INDEX).write_text(yaml.safe_dump(index))
    return folder


@pytest.fixture(scope="module")
def bundle(original: Path, sizes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "bundle"
    assert main(["import", str(original), "--out", str(out), "--sizes", str(sizes)]) == 0
    return out


@pytest.fixture
def published(original: Path, tmp_path: Path) -> Path:
    """A copy of the published files that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "published"))


def run(published: Path, out: Path, sizes: Path, *more: str) -> list[str]:
    return ["import", str(published), "--out", str(out), "--sizes", str(sizes), *more]


def change(path: Path, **new: Tensor | None) -> None:
    """Replace tensors of a file, or take them out; dots of names are written as `__`."""
    held = dict(read_tensors(path))
    for name, value in new.items():
        name = name.replace("__", ".")
        if value is None:
            del held[name]
        else:
            held[name] = value
    write(path, held)


def read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: value.clone() for name, value in load_file(path).items()}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("pwned"),))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


# From waveform to waveform.


@pytest.mark.parametrize("task", ["se", "vc", "tse", "l2s"])
def test_speech_of_imported_weights_is_that_of_the_models_they_came_from(
    bundle: Path, original: Path, task: str
) -> None:
    """Token for token, the SSL front end, LoRA and adapter included."""
    made = models()
    features = W2vBertFeatures(str(original / "w2v-bert-2.0"), dim=FEATURES)
    statistics = torch.load(original / "wav2vec2bert_stats.pt", weights_only=True)
    features.mean.copy_(statistics["mean"])
    features.std.copy_(statistics["var"].sqrt())
    stage1 = made["tse_lora" if task == "tse" else task]
    if task == "tse":
        merge_lora(stage1)
    tokenizer = SpeechTokenizer(features, made["semantic_codec"], made["acoustic_codec"])  # type: ignore[arg-type]
    stage2 = (made["s2a_1layer"].eval(), made["s2a_full"].eval())
    expected = Metis(tokenizer, {task: stage1.eval()}, stage2)  # type: ignore[arg-type, dict-item]

    generator = torch.Generator().manual_seed(1)
    prompt, source = (0.1 * torch.randn(n, generator=generator) for n in (14_400, 24_000))
    request = {
        "se": Request("se", source=source),
        "vc": Request("vc", prompt, source),
        "tse": Request("tse", prompt, source),
        "l2s": Request("l2s", prompt, features=torch.randn(50, LIP_DIM, generator=generator)),
    }[task]
    theirs, ours = (m.generate([request], 3, SHORT)[0] for m in (expected, Metis.from_pretrained(str(bundle), task)))
    assert torch.equal(ours.ssl_tokens, theirs.ssl_tokens)
    assert torch.equal(ours.acoustic_tokens, theirs.acoustic_tokens)
    torch.testing.assert_close(ours.wave, theirs.wave, rtol=0, atol=1e-5)
    assert len(ours.wave) == 24_000
    assert len(ours.ssl_tokens.unique()) > 1


def test_omni_works_without_text_and_says_why_it_reads_none(bundle: Path) -> None:
    omni = Metis.from_pretrained(str(bundle), "omni")
    noisy = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(1))
    assert len(omni.enhance(noisy, settings=SHORT).wave) == 24_000
    with pytest.raises(UserError, match="MaskGCT's G2P"):
        omni.synthesize("Some words.", noisy, "Other words.")


# What is refused.


def test_every_tensor_that_does_not_fit_is_named_in_one_line_and_nothing_is_written(
    published: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(published / "metis_vc/metis_vc.safetensors", mask_emb__weight=None)
    change(published / "metis_l2s/metis_l2s.safetensors", cond_adapter__0__weight=torch.zeros(3, 5))
    change(published / "semantic_codec/model.safetensors", surplus__weight=torch.zeros(2))
    change(published / "acoustic_codec/model_1.safetensors", quantizer__quantizers__0__codebook__weight=None)
    lora = "model__diff_estimator__layers__0__self_attn__q_proj__lora_A__default__weight"
    change(published / "metis_tse/metis_tse_lora_32.safetensors", **{lora: torch.zeros(9, WIDTH)})
    change(published / "metis_base/model.safetensors", to_logit__bias=torch.zeros(32, dtype=torch.long))
    torch.save({"mean": torch.zeros(FEATURES)}, published / "wav2vec2bert_stats.pt")

    assert main(run(published, tmp_path / "out", sizes)) == 2
    error = one_line(capsys)
    for part in (
        "7 problems",
        "metis_vc.safetensors: 'mask_emb.weight' is missing",
        "'cond_adapter.0.weight' has shape (3, 5), the model needs (64, 768)",
        "unexpected 'surplus.weight'",
        "'decoder.quantizer.quantizers.0.codebook.weight' is missing",
        f"'{lora.replace('__', '.')}' has shape (9, 16), the model needs (4, 16)",
        "'to_logit.bias' holds torch.int64",
        "wav2vec2bert_stats.pt: 'std' is missing",
    ):
        assert part in error
    assert not list(tmp_path.glob("out*"))


def test_weights_of_other_sizes_than_the_papers_are_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(original), "--out", str(tmp_path / "out"), "--tasks", "vc"]) == 2
    error = one_line(capsys)
    assert "'mask_emb.weight' has shape (1, 16), the model needs (1, 1536)" in error
    assert "layers.15.mlp.up_proj.weight' is missing" in error
    assert "--sizes" in error


@pytest.mark.parametrize(
    "name", ["metis_vc/metis_vc.safetensors", "wav2vec2bert_stats.pt", "w2v-bert-2.0/model.safetensors"]
)
def test_a_pickle_in_a_files_place_is_refused_and_not_run(
    name: str,
    published: Path,
    sizes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for write_evil in (lambda file: pickle.dump(Evil(), file), lambda file: torch.save({"mean": Evil()}, file)):
        with (published / name).open("wb") as file:
            write_evil(file)
        assert main(run(published, tmp_path / "out", sizes)) == 2
        assert name in one_line(capsys)
    assert not (tmp_path / "pwned").exists()
    assert not list(tmp_path.glob("out*"))


def test_missing_files_are_all_named(
    published: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("metis_tse/metis_tse_lora_32_adapter.safetensors", "wav2vec2bert_stats.pt"):
        (published / name).unlink()
    shutil.rmtree(published / "metis_l2s")
    assert main(run(published, tmp_path / "out", sizes)) == 2
    error = one_line(capsys)
    assert "2 files are missing" in error
    assert "wav2vec2bert_stats.pt" in error
    assert "metis_tse_lora_32_adapter.safetensors" in error
    assert main(run(published, tmp_path / "out", sizes, "--tasks", "l2s")) == 2
    assert "metis_l2s.safetensors" in one_line(capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "asr"], "choose from base, tts"),
        (["--file", "vocoder=a.bin"], "the parts are acoustic_codec"),
        (["--file", "vc"], "give NAME=VALUE"),
        (["--file", "acoustic_codec=one.safetensors"], "acoustic_codec/model_1.safetensors, in this order"),
        (["--sizes", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_option_is_one_line(
    more: list[str], message: str, original: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run(original, tmp_path / "out", sizes, *more)) == 2
    assert message in one_line(capsys)


def test_a_folder_with_something_else_is_left_alone(
    original: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(run(original, tmp_path, sizes)) == 2
    assert "something else" in one_line(capsys)
    assert os.listdir(tmp_path) == ["notes.txt"]


# What is kept and noted.


def test_the_bundle_notes_sources_digests_and_licences(bundle: Path, original: Path) -> None:
    parts = read_index(bundle)["parts"]
    assert set(parts) == {
        "w2v_bert", "ssl_features", "semantic_codec", "acoustic_codec", "s2a_1layer", "s2a_full",
        "stage1", "vc", "tse", "se", "l2s", "omni",
    }  # fmt: skip
    for name, entry in parts.items():
        assert entry["sha256"] == sha256_of(bundle / f"{name}.safetensors")
        assert entry["licence"].startswith("MIT" if name in ("w2v_bert", "ssl_features") else "CC BY-NC 4.0")
    for path in ("metis_tse/metis_tse_lora_32.safetensors", "metis_tse/metis_tse_lora_32_adapter.safetensors"):
        assert parts["tse"]["source"]["files"][Path(path).name] == sha256_of(original / path)
    assert all("encoder.layers.1" in name for name in parts["w2v_bert"]["source"]["left_out"])
    text = (bundle / LICENCES).read_text()
    assert text.count("creativecommons.org/licenses/by-nc/4.0") == len(parts) - 2


def test_a_second_run_keeps_what_is_there_and_takes_what_changed(
    published: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(run(published, out, sizes, "--tasks", "vc", "tse")) == 0
    assert {"stage1", "vc", "tse"} < set(read_index(out)["parts"])
    assert "se" not in read_index(out)["parts"]
    capsys.readouterr()
    assert main(run(published, out, sizes, "--tasks", "vc", "tse", "se")) == 0
    told = capsys.readouterr().out
    assert told.count("was there") == 9
    assert "se: " in told
    # Another base makes the LoRA's part another one, too.
    change(published / "metis_base/model.safetensors", to_logit__bias=torch.ones(32))
    assert main(run(published, out, sizes)) == 0
    fresh = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[") and "was there" not in line]
    assert [line.split()[1] for line in fresh] == ["stage1:", "tse:", "l2s:", "omni:"]
    assert Metis.from_pretrained(str(out), "tse").stage1["tse"].to_logit.bias.eq(1).all()


def test_weights_can_be_stored_smaller(original: Path, sizes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(run(original, out, sizes, "--tasks", "vc", "--dtype", "bfloat16")) == 0
    assert {entry["dtype"] for entry in read_index(out)["parts"].values()} == {"bfloat16"}
    weight = Metis.from_pretrained(str(out), "vc").stage1["vc"].to_logit.weight
    assert torch.equal(
        weight, read_tensors(original / "metis_vc/metis_vc.safetensors")["to_logit.weight"].bfloat16().float()
    )


def test_tensors_are_left_out_only_by_name(published: Path, sizes: Path, tmp_path: Path) -> None:
    change(published / "metis_vc/metis_vc.safetensors", ema__decay=torch.zeros(1))
    assert main(run(published, tmp_path / "out", sizes, "--tasks", "vc")) == 2
    assert main(run(published, tmp_path / "out", sizes, "--tasks", "vc", "--ignore", "ema.*")) == 0
    assert read_index(tmp_path / "out")["parts"]["vc"]["source"]["left_out"] == ["ema.decay"]


def test_the_visual_encoder_is_carried_along_as_it_is(published: Path, sizes: Path, tmp_path: Path) -> None:
    shared = torch.randn(3)
    weights = {"frontend.weight": shared, "tied.weight": shared, "bn.num_batches_tracked": torch.tensor(70_001)}
    torch.save(weights, published / "metis_l2s/vis_model.pth")
    (published / "metis_l2s/vis_model.json").write_text('{"adim": 768}')
    assert main(run(published, tmp_path / "out", sizes, "--tasks", "l2s", "--dtype", "bfloat16")) == 0
    entry = read_index(tmp_path / "out")["parts"]["lip_encoder"]
    assert entry["config"] == {"adim": 768}
    kept = read_tensors(tmp_path / "out/lip_encoder.safetensors")
    assert torch.equal(kept["tied.weight"], shared.bfloat16())
    assert int(kept["bn.num_batches_tracked"]) == 70_001


def test_a_whole_model_is_taken_where_the_lora_is_not(published: Path, sizes: Path, tmp_path: Path) -> None:
    for path in (published / "metis_tse").glob("*lora*"):
        path.unlink()
    write(published / "metis_tse/metis_tse.safetensors", models()["se"].state_dict())
    assert main(run(published, tmp_path / "out", sizes, "--tasks", "tse")) == 0
    assert read_index(tmp_path / "out")["parts"]["tse"]["config"]["lora_rank"] == 0
    assert "tse" in Metis.from_pretrained(str(tmp_path / "out"), "tse").stage1


KILLED = """
import os, signal, sys
from metis_lightning.weights import bundle
from metis_lightning.cli.main import main

save, calls = bundle.save_file, []

def killed(tensors, path):
    calls.append(path)
    if len(calls) == 5:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path)

bundle.save_file = killed
main(sys.argv[1:])
"""


def test_a_killed_import_leaves_no_bundle_and_goes_on_where_it_was(
    original: Path, sizes: Path, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, *run(original, out, sizes)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert main(run(original, out, sizes)) == 0
    assert capsys.readouterr().out.count("was there") == 4
    assert os.listdir(tmp_path) == ["out"]
    assert read_index(out) == read_index(bundle)
    assert sorted(os.listdir(out)) == sorted(os.listdir(bundle))
