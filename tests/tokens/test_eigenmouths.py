"""Principal components of mouth pictures: what they hold, what they leave out, and rows of a batch as alone."""

from __future__ import annotations

import torch

from metis_lightning.tokens.visual.eigenmouths import EigenMouths


def video(seed: int, frames: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures (F, 88, 88) of a mouth that opens and widens on a face of its own, and both movements (F, 2)."""
    generator = torch.Generator().manual_seed(seed)
    movements = torch.randn(frames, 2, generator=generator)
    face = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4, generator=generator), size=(88, 88))[0, 0]
    shapes = torch.zeros(2, 88, 88)
    shapes[0, 40:56, 24:64], shapes[1, 40:44, 8:80] = 1.0, 0.7
    noise = 0.05 * torch.randn(frames, 88, 88, generator=generator)
    return face + torch.einsum("fk,khw->fhw", movements, shapes) + noise, movements


def test_components_hold_the_movements_and_not_the_face() -> None:
    encoder = EigenMouths(dim=2)
    assert encoder.fit(video(seed)[0] for seed in range(8)) > 0.95
    pictures, movements = video(seed=100)
    features = encoder(pictures[None], torch.tensor([len(pictures)]))[0]
    assert torch.allclose(features.mean(dim=0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(features.std(dim=0), torch.ones(2), atol=0.4)
    # The movements are a linear function of the features.
    movements = movements - movements.mean(dim=0)
    fitted = features @ torch.linalg.lstsq(features, movements).solution
    assert float((fitted - movements).square().mean() / movements.square().mean()) < 0.02
    # In other light, on another face, they are the same.
    relit = encoder(pictures[None] + torch.linspace(0, 3, 88), torch.tensor([len(pictures)]))[0]
    torch.testing.assert_close(relit, features, atol=1e-3, rtol=0)


def test_rows_of_a_batch_are_as_alone() -> None:
    encoder = EigenMouths(dim=2)
    encoder.fit([video(0)[0]])
    long, short = video(1)[0], video(2, frames=35)[0]
    batch = torch.stack([long, torch.nn.functional.pad(short, (0, 0, 0, 0, 0, 25), value=9.0)])
    both = encoder(batch, torch.tensor([60, 35]))
    torch.testing.assert_close(both[0], encoder(long[None], torch.tensor([60]))[0])
    torch.testing.assert_close(both[1, :35], encoder(short[None], torch.tensor([35]))[0])
    assert not both[1, 35:].any()
