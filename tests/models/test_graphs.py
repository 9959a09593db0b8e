"""CUDA graphs, on GPUs that are none: on the model's device, out of one pool, few, and checked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metis_lightning.models.backbone import Backbone
from metis_lightning.models.runner import BUCKET, Graphs, PaddedRunner, Runner, runner_for
from pretended_gpu import CPU, GPU, SECOND, PretendedCuda, PretendedGPU, send

WIDTH, LAYERS = 16, 2


def backbone() -> Backbone:
    torch.manual_seed(0)
    made = Backbone(WIDTH, LAYERS, 2, cond_mlp=False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences one after another, and the scales of a step."""
    return numbers(1, sum(lengths), WIDTH, seed=seed), numbers(2 * LAYERS + 1, WIDTH, seed=seed + 100)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PretendedCuda:
    return PretendedCuda(monkeypatch)


def on_gpu(runner: Runner, device: torch.device) -> Callable[..., Tensor]:
    """A pass on a device, from the CPU and back."""

    def run(lengths: tuple[int, ...], seed: int = 0) -> Tensor:
        x, scales = (each.to(device) for each in inputs(lengths, seed))
        return runner(x, lengths, scales).cpu()

    return run


@pytest.mark.parametrize("device", [GPU, SECOND])
def test_replays_on_any_device_give_what_the_backbone_gives(cuda: PretendedCuda, device: torch.device) -> None:
    plain, model = Runner(backbone()), send(backbone(), device)
    with PretendedGPU():
        run = on_gpu(runner_for(model, device, graphs=Graphs(device)), device)
        for lengths, seed in (((9, 4), 0), ((12, 7), 1), ((70,), 2), ((5, 30), 3)):
            x, scales = inputs(lengths, seed)
            torch.testing.assert_close(run(lengths, seed), plain(x, lengths, scales))
    captured = [event for event in cuda.events if event[0] == "capture"]
    # Two shapes: two rows of one bucket, and one row of two.
    assert len(captured) == 2
    assert {event[1] for event in cuda.events} == {device}
    assert {event[4] for event in captured} == {"thread_local"}
    assert cuda.current == GPU


def test_a_capture_on_another_device_is_an_error(cuda: PretendedCuda) -> None:
    model = send(backbone(), SECOND)
    with PretendedGPU(), pytest.raises(UserWarning, match="The CUDA Graph is empty"):
        on_gpu(runner_for(model, SECOND, graphs=Graphs(GPU)), SECOND)((9, 4))


def test_a_replay_that_does_not_follow_its_inputs_is_an_error(cuda: PretendedCuda) -> None:
    copies: list[Tensor] = []

    def forgetful(x: Tensor) -> Tensor:
        # Three times to warm up; what is captured then reads a copy that later inputs do not reach.
        copies.append(x.clone())
        return (copies[0] if len(copies) == 4 else x) * 2

    with PretendedGPU(), pytest.raises(RuntimeError, match=r"inputs \[\(3, 4\)\] .* gives another result"):
        Graphs(GPU).run("forgetful", forgetful, numbers(3, 4).to(GPU))


def test_graphs_share_a_pool_and_a_stream_and_the_oldest_go(cuda: PretendedCuda) -> None:
    models = [send(backbone()) for _ in range(2)]
    graphs = Graphs(GPU, most=3)
    with PretendedGPU():
        first, second = (on_gpu(runner_for(model, GPU, graphs=graphs), GPU) for model in models)
        shapes = [(10,), (BUCKET + 1,), (10, 10)]
        for lengths in shapes:
            first(lengths)
        assert (len(graphs.graphs), len(_captures(cuda))) == (3, 3)
        first((20,))  # the bucket of (10,): replayed, and so the last to go
        second((10,))  # another model
        assert (len(graphs.graphs), len(_captures(cuda))) == (3, 4)
        first((30,))
        assert len(_captures(cuda)) == 4
        first((BUCKET + 2,))  # had to go for the other model's
        assert (len(graphs.graphs), len(_captures(cuda))) == (3, 5)
    assert cuda.pools == 1
    assert len({(event[2], id(event[3])) for event in _captures(cuda)}) == 1


def _captures(cuda: PretendedCuda) -> list[tuple]:
    return [event for event in cuda.events if event[0] == "capture"]


def test_rows_are_rounded_up_and_fill_nothing_in(cuda: PretendedCuda) -> None:
    plain, graphs, model = Runner(backbone()), Graphs(GPU), send(backbone())
    with PretendedGPU():
        run = on_gpu(runner_for(model, GPU, graphs=graphs), GPU)
        for rows in range(5, 9):
            lengths = tuple(range(10, 10 + rows))
            x, scales = inputs(lengths)
            found = run(lengths)
            assert found.isfinite().all()
            torch.testing.assert_close(found, plain(x, lengths, scales))
    assert (len(graphs.graphs), len(_captures(cuda))) == (1, 1)


def test_evaluation_of_thirty_shapes_keeps_no_more_than_its_bound(cuda: PretendedCuda) -> None:
    graphs, model = Graphs(GPU, most=4), send(backbone())
    with PretendedGPU():
        run = on_gpu(runner_for(model, GPU, graphs=graphs), GPU)
        for shape in range(30):
            run((10,) * (1 + shape % 6) + (BUCKET * (1 + shape // 6),))
            assert len(graphs.graphs) <= 4


def test_sequences_are_padded_where_graphs_are_or_it_compiles(cuda: PretendedCuda) -> None:
    kinds = [
        runner_for(backbone(), GPU, graphs=Graphs(GPU)),
        runner_for(backbone(), GPU),
        runner_for(backbone(), CPU, graphs=Graphs(GPU)),
    ]
    assert [type(kind) for kind in kinds] == [PaddedRunner, Runner, Runner]
    assert kinds[0].graphs is not None


def test_padded_sequences_without_graphs_give_the_same() -> None:
    model, lengths = backbone(), (9, 70, 4)
    x, scales = inputs(lengths)
    torch.testing.assert_close(PaddedRunner(model)(x, lengths, scales), Runner(model)(x, lengths, scales))
