"""Masters are spread over their weights' rounding cells, and no weight changes by it."""

from __future__ import annotations

import pytest
import torch

from rl.workers.learner.dither import dithered, uniform_of

CPU = torch.device("cpu")
HALF = [torch.bfloat16, torch.float16]


def all_numbers(dtype: torch.dtype) -> torch.Tensor:
    """Every one of the 65,536 numbers of the type."""
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("at", [0.0, 1e-7, 0.5, 1 - 2**-24, 1.0, None])
def test_every_number_is_what_its_master_rounds_to(dtype: torch.dtype, at: float | None) -> None:
    weights = all_numbers(dtype)
    uniform = uniform_of("w", len(weights), 1, CPU) if at is None else torch.full((len(weights),), at)
    masters = dithered(weights, uniform)
    assert masters.dtype == torch.float32
    number = ~weights.isnan()
    assert masters[~number].isnan().all()
    assert torch.equal(masters[number].to(dtype).view(torch.int16), weights[number].view(torch.int16))


def test_a_worked_example() -> None:
    one = torch.tensor([1.0, -1.0], dtype=torch.bfloat16)
    ends = [dithered(one, torch.full((2,), at))[0].item() for at in (2**-20, 0.5, 1 - 2**-20)]
    assert ends == pytest.approx([0.998046875, 1.0009765625, 1.00390625], abs=1e-7)
    assert dithered(one, torch.full((2,), 0.25))[1] == -dithered(one, torch.full((2,), 0.25))[0]
    still = torch.tensor([0.0, -0.0, torch.inf, -torch.inf], dtype=torch.bfloat16)
    assert torch.equal(dithered(still, torch.full((4,), 0.9)), still.float())
    assert dithered(torch.tensor([torch.nan], dtype=torch.bfloat16), torch.zeros(1)).isnan().all()


@pytest.mark.parametrize("dtype", HALF)
def test_an_update_moves_the_share_of_the_weights_that_it_is_of_their_cells(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = (torch.rand(200_000, generator=generator) * 0.9 + 1.05).to(dtype)  # all cells are equally wide there
    cell = torch.finfo(dtype).eps
    masters = dithered(weights, uniform_of("w", len(weights), 0, CPU))
    for part in (0.003, 0.1, 0.5, 0.9):
        moved = ((masters + part * cell).to(dtype) != weights).float().mean().item()
        assert moved == pytest.approx(part, rel=0.1)
        assert ((weights.float() + min(part, 0.4) * cell).to(dtype) == weights).all()  # undithered, all stay


def test_a_parameters_numbers_depend_on_its_name_and_the_seed_alone() -> None:
    first = uniform_of("a", 1000, 1, CPU)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(first, uniform_of("a", 1000, 1, CPU))
    assert not torch.equal(first, uniform_of("b", 1000, 1, CPU))
    assert not torch.equal(first, uniform_of("a", 1000, 2, CPU))
    assert 0 <= first.min() < 0.01 < 0.99 < first.max() < 1
