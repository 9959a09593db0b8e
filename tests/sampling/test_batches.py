"""A batch of any lengths and prompts gives each row what it gets alone, token for token, in all tasks, both stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from torch import Tensor

from metis_lightning.bench.released_decoding import two_pass_acoustic_tokens, two_pass_ssl_tokens
from metis_lightning.errors import UserError
from metis_lightning.models.runner import PaddedRunner, Runner
from metis_lightning.models.stage1 import GatedAdapter, PlainAdapter, Stage1
from metis_lightning.pipeline import Metis, Request, Settings, Speech
from metis_lightning.sampling.denoisers import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.sampling.mask_predict import Noise, gumbel
from metis_lightning.sampling.settings import Sampling
from metis_lightning.tokens.phonemes import Utf8Bytes
from tiny import STAGE1, WIDTH

LIP_DIM, LENGTHS = 6, (37, 5, 61, 48, 30, 90, 14, 52)
# Of so few codes the likeliest 2% are one: half of them leave something to draw.
SETTINGS = Settings(
    stage1=Sampling(num_steps=6, guidance_scale=2.0, filter_threshold=0.5),
    stage2=Sampling(temperature=1.5, guidance_scale=2.5, filter_threshold=0.5),
    stage2_steps=(5, 3, 1),
    first_layer_guidance=1.0,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def sources(seed: int) -> Iterator[Tensor]:
    """Yield waveforms whose frames are those of LENGTHS, with odd ends."""
    yield from (noise(480 * frames + 7 * row, seed=100 * seed + row) for row, frames in enumerate(LENGTHS))


@pytest.fixture(scope="module", params=[False, True], ids=["", "spread phones"])
def metis(tiny_bundle: object, request: pytest.FixtureRequest) -> Metis:
    """Random models with large layers, so that what they read moves their choices; the tasks share Omni's."""
    loaded = Metis.from_pretrained(str(tiny_bundle))
    torch.manual_seed(0)
    omni = Stage1(replace(STAGE1, use_phone_cond=True), GatedAdapter(160, WIDTH)).eval()
    torch.nn.init.constant_(omni.cond_adapter.gate_scale, 0.005)
    lips = Stage1(STAGE1, PlainAdapter(LIP_DIM, WIDTH)).eval()
    assert loaded.stage2 is not None
    for model in (omni, lips, *loaded.stage2):
        for parameter in (*model.diff_estimator.parameters(), model.cond_emb.weight, model.mask_emb.weight):
            torch.nn.init.normal_(parameter, std=0.4)
    models = dict.fromkeys(("tts", "tse", "se", "vc"), omni)
    if request.param:
        models["tts"] = deepcopy(omni)
        models["tts"].add_phones(spread=True)
    return Metis(loaded.tokenizer, {**models, "l2s": lips}, loaded.stage2, Utf8Bytes())


def requests(task: str, seed: int) -> list[Request]:
    prompts = cycle([noise(7300, seed=seed), None, noise(12_345, seed=seed + 1)])
    if task == "tts":
        return [
            Request(task, prompt, phones=tuple(range(1, 4 + row)), samples=480 * max(frames, 6))
            for row, (prompt, frames) in enumerate(zip(prompts, LENGTHS, strict=False))
        ]
    if task == "l2s":
        return [
            Request(task, prompt, features=noise(frames, LIP_DIM, seed=seed) * 10)
            for prompt, frames in zip(prompts, LENGTHS, strict=False)
        ]
    heard = list(sources(seed))
    if task == "se":
        return [Request(task, source=wave) for wave in heard]
    guided = ((), (3, 5, 7), (9,))
    return [
        Request(task, prompt, wave, phones=guided[row % 3] if task == "tse" else ())
        for row, (prompt, wave) in enumerate(zip(prompts, heard, strict=False))
    ]


def assert_same(one: Speech, other: Speech) -> None:
    assert torch.equal(one.ssl_tokens, other.ssl_tokens)
    assert torch.equal(one.acoustic_tokens, other.acoustic_tokens)
    assert one.wave.shape == other.wave.shape
    torch.testing.assert_close(one.wave, other.wave)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("task", ["tts", "vc", "tse", "se", "l2s"])
def test_a_batch_of_eight_is_eight_singles(metis: Metis, task: str, seed: int) -> None:
    asked, seeds = requests(task, seed), [seed + 10 * row for row in range(8)]
    together = metis.generate(asked, seeds, SETTINGS)
    assert {speech.timing.rows for speech in together} == {8}
    for request, row_seed, speech in zip(asked, seeds, together, strict=True):
        assert_same(speech, metis.generate([request], row_seed, SETTINGS)[0])
    assert len({tuple(speech.ssl_tokens[:5].tolist()) for speech in together}) > 4, "rows of noise should differ"


def test_tasks_and_models_mix_in_one_batch_and_keep_their_order_and_settings(metis: Metis) -> None:
    asked = [requests(task, 0)[index] for index, task in enumerate(("tse", "l2s", "se", "tts", "vc"))]
    together = metis.generate(asked, seeds=4, num_steps=3, stage2_steps=(2, 1, 1))
    assert [speech.timing.rows for speech in together] == [1, 1, 1, 1, 1] or together[0].timing.rows > 1
    for request, speech in zip(asked, together, strict=True):
        assert_same(speech, metis.generate([request], 4, num_steps=3, stage2_steps=(2, 1, 1))[0])


def test_more_rows_than_fit_go_in_several_batches(metis: Metis) -> None:
    small = Metis(metis.tokenizer, metis.stage1, metis.stage2, batch_size=3)
    asked = requests("se", 0)
    together = small.generate(asked, list(range(8)), SETTINGS)
    assert sorted(speech.timing.rows for speech in together) == [2, 2, 3, 3, 3, 3, 3, 3]
    for speech, other in zip(together, metis.generate(asked, list(range(8)), SETTINGS), strict=True):
        assert_same(speech, other)


def test_methods_of_tasks_ask_what_their_requests_ask(metis: Metis) -> None:
    one, other, voice = noise(9000), noise(14_000, seed=1), noise(7000, seed=2)
    lips = noise(12, LIP_DIM, seed=1)
    steps = {"num_steps": 2, "stage2_steps": (2, 1, 1)}
    requests_of = [
        metis.request("se", source=other),
        metis.request("vc", voice, other),
        metis.request("tse", voice, other),
        metis.request("tts", voice, text="Two more.", prompt_text="A voice."),
        metis.request("l2s", voice, features=lips),
    ]
    alone = [
        metis.enhance(other, 4, **steps),
        metis.convert(other, voice, 4, **steps),
        metis.extract(other, voice, 4, **steps),
        metis.synthesize("Two more.", voice, "A voice.", seed=4, **steps),
        metis.lip_to_speech(lips, voice, 4, **steps),
    ]
    mixed = [metis.request("se", source=one), *requests_of, metis.request("l2s", one, features=lips[:9])]
    together = metis.generate(mixed, [3, 4, 4, 4, 4, 4, 5], **steps)
    for speech, expected in zip(together[1:], alone, strict=False):
        assert_same(speech, expected)


def test_a_mistake_in_a_batch_names_its_row(metis: Metis) -> None:
    with pytest.raises(UserError, match="request 1 of the batch: the source lasts 0.00 s"):
        metis.generate([metis.request("se", source=noise(9000)), metis.request("se", source=noise(10))])
    with pytest.raises(UserError, match="3 seeds for 1 requests"):
        metis.generate([metis.request("se", source=noise(9000))], [1, 2, 3])
    assert metis.generate([]) == []


def test_timing_counts_the_passes_of_both_branches_once(metis: Metis) -> None:
    timing = metis.generate(requests("vc", 0), 0, SETTINGS)[0].timing
    assert timing is not None
    assert timing.forwards == {"stage1": 6, "stage2": 5 + 3 + 1}
    assert set(timing.seconds) == {"front_end", "stage1", "stage2", "vocoder"}
    assert min(timing.seconds.values()) > 0
    assert timing.total == pytest.approx(sum(timing.seconds.values()))


def seeded(seed: int) -> Noise:
    return gumbel(torch.Generator().manual_seed(seed))


def stage1_requests(seed: int) -> list[Stage1Request]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(STAGE1.codebook_size, (40,), generator=generator)
    return [
        Stage1Request(ids[:prompt], frames, noise(prompt + frames, 160, seed=seed + frames), phones)
        for prompt, frames, phones in ((0, 33, None), (11, 20, torch.tensor([4, 5])), (7, 51, None))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_both_stages_take_the_released_codes_choices(metis: Metis, seed: int) -> None:
    """Two passes, every frame through the head, nothing kept from step to step: the same tokens."""
    stage1, (first, full) = metis.stage1["tse"], metis.stage2
    asked, noises = stage1_requests(seed), [seeded(seed + row) for row in range(3)]
    together = sample_ssl_tokens(stage1, asked, SETTINGS.stage1, noises)
    for row, request in enumerate(asked):
        assert torch.equal(together[row], two_pass_ssl_tokens(stage1, request, SETTINGS.stage1, seeded(seed + row)))
    layers = full.config.num_quantizers
    codes = torch.randint(full.config.codebook_size, (40, layers), generator=torch.Generator().manual_seed(seed))
    for model, given in ((first, 0), (full, 1)):
        second = [
            Stage2Request(
                torch.cat([request.prompt, tokens]),
                codes[: len(request.prompt), : model.config.num_quantizers],
                codes[:1, :given].expand(request.length, -1),
            )
            for request, tokens in zip(asked, together, strict=True)
        ]
        noises = [seeded(seed + row) for row in range(3)]
        settings, steps = SETTINGS.stage2, SETTINGS.layer_steps(layers)
        found = sample_acoustic_tokens(model, second, settings, steps, noises)
        for row, request in enumerate(second):
            expected = two_pass_acoustic_tokens(model, request, settings, steps, seeded(seed + row))
            assert torch.equal(found[row], expected)


def test_padded_sequences_with_a_mask_are_the_sequences_alone(metis: Metis) -> None:
    """What a GPU runs, without the GPU: padding to the buckets of rows and lengths."""
    backbone, lengths = metis.stage1["tse"].diff_estimator, (70, 3, 64)
    x, scales = noise(1, sum(lengths), WIDTH), backbone.norm_scales(torch.tensor([0.3]), torch.float32)[0]
    shapes = []

    class Noted:
        """In the place of graphs."""

        def run(self, owner: object, compute: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(inputs[0].shape))
            return compute(*inputs)

    padded = PaddedRunner(backbone, graphs=Noted())
    with torch.no_grad():
        torch.testing.assert_close(padded(x, lengths, scales), Runner(backbone)(x, lengths, scales))
        padded(x[:, :134], (70, 64), scales)
        padded(x, lengths, scales)
    assert shapes == [(4, 128, WIDTH), (2, 128, WIDTH), (4, 128, WIDTH)]
    assert padded.forwards == 3
    alone = backbone(x[:, :70], torch.tensor([0.3]))
    torch.testing.assert_close(Runner(backbone)(x, lengths, scales)[:, :70], alone)
