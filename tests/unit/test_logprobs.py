from __future__ import annotations

import pytest
import torch

from rl.algorithms.logprobs import chunked_logprobs


def problem(tokens: int = 37, hidden: int = 16, vocab: int = 50, seed: int = 0):  # type: ignore[no-untyped-def]
    g = torch.Generator().manual_seed(seed)
    hidden_TD = torch.randn(tokens, hidden, generator=g)
    weight_VD = torch.randn(vocab, hidden, generator=g)
    targets_T = torch.randint(vocab, (tokens,), generator=g)
    temperature_T = torch.rand(tokens, generator=g) + 0.5
    return hidden_TD, weight_VD, targets_T, temperature_T, torch.randn(tokens, generator=g)


def test_the_docstring_example_holds() -> None:
    logprobs, entropy = chunked_logprobs(
        torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]), torch.tensor([1.0])
    )
    assert float(logprobs) == pytest.approx(-0.3133, abs=1e-4)
    assert float(entropy) == pytest.approx(0.5822, abs=1e-4)


@pytest.mark.parametrize("chunk", [1, 8, 37, 1024])
def test_values_and_gradients_equal_the_full_log_softmax_for_every_chunk_size(chunk: int) -> None:
    hidden, weight, targets, temperature, grad = problem()
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logprobs, entropy = chunked_logprobs(h, w, targets, temperature, chunk)
    logprobs.backward(grad)
    h2, w2 = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    full = torch.log_softmax(h2 @ w2.T / temperature[:, None], dim=-1)
    want = full.gather(1, targets[:, None]).squeeze(1)
    want.backward(grad)
    torch.testing.assert_close(logprobs, want)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1))
    torch.testing.assert_close(h.grad, h2.grad)
    torch.testing.assert_close(w.grad, w2.grad, rtol=1e-5, atol=1e-5)


def test_bfloat16_inputs_give_logits_that_are_not_rounded_to_bfloat16() -> None:
    hidden, weight, targets, temperature, _ = problem(hidden=64)
    hidden, weight = (4 * hidden).bfloat16(), weight.bfloat16()  # logits near 30, where bfloat16 steps by 0.125
    logprobs, _ = chunked_logprobs(hidden, weight, targets, temperature)
    full = torch.log_softmax(hidden.double() @ weight.double().T / temperature.double()[:, None], dim=-1)
    want = full.gather(1, targets[:, None]).squeeze(1)
    assert float((logprobs - want).abs().max()) < 1e-3


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, targets, temperature, grad = problem()
    h = hidden.clone().requires_grad_()
    chunked_logprobs(h, weight, targets, temperature)[0].backward(grad)
    assert weight.grad is None
    assert h.grad is not None


@pytest.mark.parametrize("chunk", [3, 64])
def test_a_second_backward_gives_the_gradients_of_the_first(chunk: int) -> None:
    """The first one uses up the logits that forward has left for it."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (10, 20))
    targets, temperature = torch.arange(10), torch.full((10,), 0.7)
    logprobs, _ = chunked_logprobs(hidden, weight, targets, temperature, chunk)
    loss = (logprobs * torch.arange(10)).sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].abs().max() > 0.1
