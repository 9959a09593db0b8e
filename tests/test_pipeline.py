"""The public API on a tiny bundle: lengths, seeds, alignment, what each task is asked for, and users' mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.models.runner import Runner
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import PlainAdapter, Stage1
from metis_lightning.pipeline import Metis, Request, Sampling, Settings
from metis_lightning.sampling import two_stages
from metis_lightning.sampling.denoisers import Stage1Request, stage1_embeddings
from metis_lightning.task_table import TASKS, task_named
from metis_lightning.tokens.phonemes import Utf8Bytes
from metis_lightning.tokens.visual.encoder import double_rate
from metis_lightning.types import HOP
from pretended_gpu import PretendedGPU, is_there, send
from tiny import STAGE1, WIDTH, stage2_config

FAST = TASKS["tse"].settings.chosen({"num_steps": 2, "stage2_steps": (2, 1, 1)})
GUIDED = replace(FAST, stage1=replace(FAST.stage1, guidance_scale=2.5), first_layer_guidance=1.0)
LIP_DIM = 6


@pytest.fixture(scope="module")
def metis(tiny_bundle: Path) -> Metis:
    return Metis.from_pretrained(str(tiny_bundle))


@pytest.fixture(scope="module")
def all_tasks(metis: Metis) -> Metis:
    """Random models in every task's place, one with phones, adapter and open gate among them, as Omni's.

    Its layers are large, so that what it reads moves its choices.
    """
    torch.manual_seed(0)
    heard = metis.stage1["tse"]
    omni = Stage1(replace(STAGE1, use_phone_cond=True), type(heard.cond_adapter)(160, WIDTH)).eval()
    torch.nn.init.constant_(omni.cond_adapter.gate_scale, 0.1)
    for parameter in (*omni.diff_estimator.parameters(), omni.phone_emb.weight):
        torch.nn.init.normal_(parameter, std=0.5)
    models = dict.fromkeys(("tts", "tse", "se", "vc"), omni)
    lips = Stage1(STAGE1, PlainAdapter(LIP_DIM, WIDTH)).eval()
    return Metis(metis.tokenizer, {**models, "l2s": lips, "adapted": heard}, metis.stage2, Utf8Bytes())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Stage1Request]:
    """What stage 1 was asked for since."""
    requests: list[Stage1Request] = []
    sample = two_stages.sample_ssl_tokens
    monkeypatch.setattr(two_stages, "sample_ssl_tokens", lambda *args: (requests.extend(args[1]), sample(*args))[1])
    return requests


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("samples", [24_000, 24_001, 30_479])
def test_extracted_speech_is_as_long_as_the_mixture(metis: Metis, samples: int) -> None:
    speech = metis.extract(noise(samples), noise(24_300, 1), settings=FAST)
    assert speech.wave.shape == (samples,)
    assert torch.isfinite(speech.wave).all()
    # The last frame of the mixture needs samples that are not there.
    assert len(speech.ssl_tokens) == samples // HOP - 1
    assert speech.acoustic_tokens.shape == (samples // HOP - 1, 3)


def test_enhanced_and_converted_speech_is_as_long_as_the_source(all_tasks: Metis) -> None:
    for samples in (24_000, 30_479):
        assert all_tasks.enhance(noise(samples), settings=FAST).wave.shape == (samples,)
        assert all_tasks.convert(noise(samples), noise(24_300, 1), settings=FAST).wave.shape == (samples,)


def test_extract_and_convert_share_their_path_and_enhance_has_no_prompt(
    all_tasks: Metis, asked: list[Stage1Request]
) -> None:
    source, prompt = noise(24_000), noise(24_000, 1)
    converted = all_tasks.convert(source, prompt, settings=FAST)
    assert torch.equal(converted.wave, all_tasks.extract(source, prompt, settings=FAST).wave)
    asked.clear()
    enhanced = all_tasks.enhance(source, settings=FAST)
    assert asked[0].prompt.shape == (0,)
    features, frames = all_tasks.tokenizer.ssl_features(source[None], torch.tensor([24_000]))
    assert torch.equal(asked[0].condition, features[0])
    assert enhanced.ssl_tokens.shape == (int(frames),)


def test_what_is_heard_is_prompt_and_source_joined_on_a_frame(all_tasks: Metis, asked: list[Stage1Request]) -> None:
    source, prompt = noise(24_000), noise(12_300, 1)
    all_tasks.extract(source, prompt, settings=FAST)
    whole = prompt[: 25 * HOP]
    joined = torch.cat([whole, source])
    features, frames = all_tasks.tokenizer.ssl_features(joined[None], torch.tensor([len(joined)]))
    tokens, known = all_tasks.tokenizer.ssl_tokens(whole[None], torch.tensor([len(whole)]))
    assert torch.equal(asked[0].condition, features[0])
    assert torch.equal(asked[0].prompt, tokens[0])
    assert asked[0].length == int(frames) - int(known) == 50
    assert asked[0].phones is None


def test_lips_are_doubled_after_zeros_for_the_prompt(all_tasks: Metis, asked: list[Stage1Request]) -> None:
    lips = noise(20 * LIP_DIM).view(20, LIP_DIM)
    speech = all_tasks.lip_to_speech(lips.double(), noise(12_000, 1), settings=FAST)
    assert len(speech.wave) == 20 * 2 * HOP == 2 * len(lips) * HOP
    assert asked[0].condition.shape == (25 + 40, LIP_DIM)
    assert asked[0].condition[:25].abs().sum() == 0
    assert torch.equal(asked[0].condition[25:], double_rate(lips[None])[0])
    # The prompt's last frame has no token: it is generated, and not heard.
    assert (len(asked[0].prompt), asked[0].length) == (24, 41)
    assert len(speech.ssl_tokens) == len(speech.acoustic_tokens) == 40


def test_text_stands_before_the_tokens_and_nothing_is_added_to_them(
    all_tasks: Metis, asked: list[Stage1Request]
) -> None:
    speech = all_tasks.synthesize("Say this.", noise(12_000), "I said that.", seconds=0.7, settings=FAST)
    assert len(speech.wave) == 35 * HOP
    assert asked[0].phones.tolist() == all_tasks.text(("I said that. Say this.", "en"))
    # Zeros would not be nothing: the adapter makes something of them.
    assert asked[0].condition is None
    assert (len(asked[0].prompt), asked[0].length) == (24, 36)
    asked.clear()
    all_tasks.synthesize("Dis-le.", noise(12_000), "I said that.", "fr", "en", 0.7, settings=FAST)
    assert asked[0].phones.tolist() == all_tasks.text(("I said that.", "en"), ("Dis-le.", "fr"))


def test_the_length_of_a_text_follows_the_prompts_rate(all_tasks: Metis) -> None:
    speech = all_tasks.synthesize("abcdefgh", noise(12_000), "abcd", settings=FAST)
    assert len(speech.wave) == 24_000


def test_a_text_guides_extraction(all_tasks: Metis, asked: list[Stage1Request]) -> None:
    mixture, voice = noise(24_000), noise(12_000, 1)
    unguided = all_tasks.extract(mixture, voice, settings=FAST)
    guided = all_tasks.extract(mixture, voice, settings=FAST, text="Say this.", enrollment_text="I said that.")
    assert torch.equal(asked[0].condition, asked[1].condition)
    assert asked[0].phones is None
    assert asked[1].phones.tolist() == all_tasks.text(("I said that. Say this.", "en"))
    assert not torch.equal(guided.ssl_tokens, unguided.ssl_tokens)


def test_guidance_compares_with_the_model_that_sees_neither_prompt_nor_phones_in_one_pass(
    all_tasks: Metis, asked: list[Stage1Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    call = Runner.__call__
    monkeypatch.setattr(
        Runner, "__call__", lambda self, x, lengths, scales: (passes.append(lengths), call(self, x, lengths, scales))[1]
    )
    all_tasks.extract(noise(24_000), noise(12_000, 1), 0, GUIDED, "Say this.", "I said that.")
    assert asked[0].phones is not None
    frames = asked[0].length
    assert passes[0] == (len(asked[0].phones) + 24 + frames, frames)
    row = stage1_embeddings(all_tasks.stage1["tse"], asked[0])
    # The condition of what is generated stays, in both branches.
    assert (len(row.prefix), len(row.added)) == (len(asked[0].phones) + 24, frames)
    assert row.added.abs().sum() > 0


def test_a_guidance_that_can_change_nothing_is_left_out(all_tasks: Metis) -> None:
    guided = replace(GUIDED, stage2=replace(GUIDED.stage2, guidance_scale=2.5))
    speech = all_tasks.enhance(noise(24_000), settings=guided)
    assert speech.timing.forwards == {"stage1": 2, "stage2": 2 + 1 + 1}
    unguided = replace(guided, stage1=replace(guided.stage1, guidance_scale=0.0), first_layer_guidance=0.0)
    assert torch.equal(speech.wave, all_tasks.enhance(noise(24_000), settings=unguided).wave)


def test_the_first_layer_of_stage_2_is_not_guided_unless_asked(metis: Metis, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = []
    sample = two_stages.sample_acoustic_tokens

    def spy(model, request, settings, *rest):
        scales.append((model.config.num_quantizers, settings.guidance_scale))
        return sample(model, request, settings, *rest)

    monkeypatch.setattr(two_stages, "sample_acoustic_tokens", spy)
    metis.extract(noise(24_000), noise(12_000, 1), settings=FAST)
    metis.extract(noise(24_000), noise(12_000, 1), settings=replace(FAST, first_layer_guidance=2.0))
    assert scales == [(1, 0.0), (3, 2.5), (1, 2.0), (3, 2.5)]


def test_the_wrong_task_is_the_users_mistake(metis: Metis) -> None:
    with pytest.raises(UserError, match="loaded for tse; load it with task='se'"):
        metis.enhance(noise(24_000))


def test_seeds_decide(metis: Metis) -> None:
    one, same, other = (metis.extract(noise(24_000), noise(24_000, 1), seed, FAST).wave for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_generated_part_is_aligned_with_the_mixture(metis: Metis, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second stage that copies the acoustic tokens of the joined waveform, the mixture comes back in place."""
    enrollment, mixture = noise(HOP * 50), noise(HOP * 60, 1)
    joined = torch.cat([enrollment, mixture])
    tokens = metis.tokenizer.acoustic_tokens(joined[None])

    def copy(model, requests, *rest):
        start, layers = len(requests[0].prompt), model.config.num_quantizers
        return [tokens[0, start : len(requests[0].ssl_tokens), :layers]]

    monkeypatch.setattr(two_stages, "sample_acoustic_tokens", copy)
    extracted = metis.extract(mixture, enrollment, settings=FAST)
    whole = metis.tokenizer.wave(tokens)[0, len(enrollment) :]
    # The last frame has no SSL token; near the ends the vocoder's context differs.
    inner = slice(10 * HOP, 40 * HOP)
    torch.testing.assert_close(extracted.wave[inner], whole[inner], rtol=0, atol=1e-5)
    assert torch.equal(extracted.acoustic_tokens, tokens[0, 50:109])


def test_resynthesis_keeps_the_length(metis: Metis) -> None:
    wave = noise(24_500)
    assert metis.resynthesize(wave).wave.shape == wave.shape


@pytest.mark.parametrize("voice_samples", [12_345, 0])
def test_respoken_is_what_a_stage_1_gives_that_guesses_every_token(
    metis: Metis, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, voice_samples: int
) -> None:
    wave, voice = noise(14_321), noise(voice_samples, 1) if voice_samples else None
    joined = wave if voice is None else torch.cat([voice[: len(voice) // HOP * HOP], wave])
    truth = metis.tokenizer.ssl_tokens(joined[None], torch.tensor([len(joined)]))[0][0]

    def guess(model, rows, *rest):
        return [truth[len(rows[0].prompt) :]]

    monkeypatch.setattr(two_stages, "sample_ssl_tokens", guess)
    guessed = metis.generate([Request("tse", voice, wave)], 3, GUIDED)[0]
    alone = Metis.without_stage1(str(tiny_bundle)).respeak(wave, voice, 3, GUIDED)
    assert len(alone.wave) == len(wave) and alone.acoustic_tokens.shape[1] == metis.stage2[1].config.num_quantizers
    for name in ("wave", "ssl_tokens", "acoustic_tokens"):
        assert torch.equal(getattr(alone, name), getattr(guessed, name)), name


def test_stage_2_may_leave_out_the_codecs_finest_layers_and_has_temperatures_of_its_own(
    metis: Metis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, temperatures = two_stages.sample_acoustic_tokens, []

    def noted(model, requests, sampling, *rest):
        temperatures.append(sampling.temperature)
        return sample(model, requests, sampling, *rest)

    monkeypatch.setattr(two_stages, "sample_acoustic_tokens", noted)
    first, full = (SemanticToAcoustic(stage2_config(count, count - 1)).eval() for count in (1, 2))
    full.config = replace(full.config, temperature=0.7)
    mixture = noise(14_400)
    speech = Metis(metis.tokenizer, metis.stage1, (first, full)).extract(mixture, noise(9_600, 1), settings=FAST)
    assert speech.acoustic_tokens.shape[1] == 2 < metis.tokenizer.acoustic_codec.config.num_quantizers
    assert len(speech.wave) == len(mixture) and temperatures == [1.5, 0.7]
    with pytest.raises(ValueError, match="temperature"):
        replace(full.config, temperature=-1.0)


def test_nothing_stays_behind_when_the_models_are_on_a_gpu(tiny_bundle: Path) -> None:
    metis = Metis.from_pretrained(str(tiny_bundle))
    torch.manual_seed(0)
    adapter = type(metis.stage1["tse"].cond_adapter)
    models = {
        "tse": Stage1(replace(STAGE1, use_phone_cond=True), adapter(160, WIDTH)).eval(),
        "l2s": Stage1(STAGE1, PlainAdapter(LIP_DIM, WIDTH)).eval(),
    }
    models["tts"] = models["tse"]
    metis = Metis(metis.tokenizer, models, metis.stage2, Utf8Bytes())
    mixture, voice, lips = noise(14_000), noise(12_000, 1), noise(20 * LIP_DIM).view(20, LIP_DIM)
    answers: list[Callable[[], torch.Tensor]] = [
        lambda: metis.extract(mixture, voice, 0, GUIDED, "Say this.", "I said that.").wave,
        lambda: metis.synthesize("Say this.", voice, "I said that.", seconds=0.5, settings=GUIDED).wave,
        lambda: metis.lip_to_speech(lips, voice, settings=GUIDED).wave,
        lambda: metis.generate([Request("tse", source=mixture)], settings=GUIDED)[0].wave,
        lambda: metis.resynthesize(mixture).wave,
        lambda: metis.respeak(mixture, voice, settings=GUIDED).wave,
    ]
    expected = [answer() for answer in answers]
    for module in (metis.tokenizer, *models.values(), *metis.stage2):
        send(module)
    with PretendedGPU():
        assert metis.device.type == "cuda"
        waves = [answer() for answer in answers]
    assert not any(map(is_there, waves))
    assert all(torch.equal(wave, known) for wave, known in zip(waves, expected, strict=True))


def test_the_pretended_gpu_notices_what_stays_behind() -> None:
    with PretendedGPU(), pytest.raises(AssertionError, match="tensors on cuda:0 and on the CPU"):
        torch.ones(2).to("cuda") + torch.ones(2)


def test_settings_are_the_tasks_and_of_an_own_task_the_defaults(metis: Metis) -> None:
    assert TASKS["tts"].settings.stage1 == Sampling(num_steps=25, guidance_scale=2.5)
    assert task_named("own").settings == TASKS["tse"].settings == Settings()
    own = Metis(metis.tokenizer, {"own": metis.stage1["tse"], "tse": metis.stage1["tse"]}, metis.stage2)
    speech = own.generate([own.request(task, source=noise(14_000)) for task in ("own", "tse")])
    assert torch.equal(speech[0].wave, speech[1].wave)
    for wrong in ({"num_steps": 0}, {"filter_threshold": 1.0}):
        with pytest.raises(ValueError, match="must"):
            Sampling(**wrong)


@pytest.mark.parametrize(
    ("source", "prompt", "mistake"),
    [
        (noise(24_000), noise(240), "the prompt lasts 0.01 s; give at least 0.10 s"),
        (noise(240), noise(24_000), "the source lasts 0.01 s; give at least 0.10 s"),
        (noise(24_000).view(2, -1), noise(24_000), r"source has the shape \(2, 12000\); give one channel"),
        (noise(24_000), (noise(24_000) * 2**15).to(torch.int16), "prompt holds torch.int16; give floating-point"),
        (noise(24_000).log(), noise(24_000), "source holds NaN or infinite samples"),
    ],
)
def test_unusable_audio_is_the_users_mistake(
    metis: Metis, source: torch.Tensor, prompt: torch.Tensor, mistake: str
) -> None:
    with pytest.raises(UserError, match=mistake):
        metis.extract(source, prompt)


def test_double_precision_is_taken(metis: Metis) -> None:
    source, prompt = noise(24_000), noise(12_000, 1)
    assert torch.equal(
        metis.extract(source.double(), prompt.double(), settings=FAST).wave,
        metis.extract(source, prompt, settings=FAST).wave,
    )


@pytest.mark.parametrize(
    ("lips", "mistake"),
    [
        (torch.zeros(2, LIP_DIM), "the video has 2 frames; give at least 3"),
        (torch.zeros(1, 9, LIP_DIM), r"the video has the shape \(1, 9, 6\); give \(frames, width\)"),
        (torch.full((9, LIP_DIM), torch.nan), "the video holds NaN"),
        (torch.zeros(9, 5), "the weights for 'l2s' take conditions 6 wide; this condition is 5 wide"),
    ],
)
def test_unusable_lips_are_the_users_mistake(all_tasks: Metis, lips: torch.Tensor, mistake: str) -> None:
    with pytest.raises(UserError, match=mistake):
        all_tasks.lip_to_speech(lips, noise(12_000))


@pytest.mark.parametrize(
    ("text", "options", "mistake"),
    [
        ("  ", {}, "nothing can be spoken of the text '  '"),
        ("Hello.", {"language": "xx"}, "language 'xx'.*knows en, zh"),
        ("Hello.", {"prompt_language": "xx"}, "language 'xx'"),
        ("Hello.", {"seconds": 0.05}, "a result of 0.04 s is asked for; give at least 0.10 s"),
        ("Hello.", {"seconds": float("nan")}, "a result of nan s"),
    ],
)
def test_unusable_text_is_the_users_mistake(
    all_tasks: Metis, text: str, options: dict[str, object], mistake: str
) -> None:
    with pytest.raises(UserError, match=mistake):
        all_tasks.synthesize(text, noise(12_000), "I said that.", **options)


def test_what_the_weights_do_not_take_is_the_users_mistake(metis: Metis, all_tasks: Metis) -> None:
    source = noise(24_000)
    with pytest.raises(UserError, match="these weights take no text"):
        metis.extract(source, source, text="Hello.", enrollment_text="Hello.")
    with pytest.raises(UserError, match="nothing can be spoken of the text ''"):
        all_tasks.extract(source, source, text="Hello.")
    with pytest.raises(UserError, match="'l2s' take conditions 6 wide; this condition is 160 wide"):
        all_tasks.generate([Request("l2s", source, source)])
    with pytest.raises(UserError, match="'adapted' take no phones"):
        all_tasks.generate([Request("adapted", source, source, phones=(1, 20))])
    for unclear in (Request("tse", source), Request("tse", source, source, samples=24_000)):
        with pytest.raises(UserError, match="give one of source, features and samples"):
            all_tasks.generate([unclear])


def test_a_bundle_or_checkpoint_without_the_task_says_what_it_has(tiny_bundle: Path) -> None:
    for task in ("se", "stage1"):
        with pytest.raises(UserError, match=f"no weights for the task '{task}', only for tse"):
            Metis.from_pretrained(str(tiny_bundle), task=task)


def test_a_device_that_was_never_compared_is_refused_in_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metis, "device", property(lambda metis: torch.device("mps")))
    with pytest.raises(UserError, match="runs on cpu and cuda; on mps"):
        Metis.from_pretrained(str(tiny_bundle))
