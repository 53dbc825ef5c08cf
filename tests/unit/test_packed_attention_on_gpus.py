"""What packed attention asks of a GPU, with tensors that say they are on one."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from rl.model.attention import packed_attention


class OnCard(Tensor):
    """A CPU tensor that says it is on a GPU. Reading a number from it would make the host wait."""

    is_cuda = True  # type: ignore[assignment]

    def __int__(self) -> int:
        raise AssertionError("the host waited for the GPU")

    def tolist(self) -> list[object]:
        raise AssertionError("the host waited for the GPU")


@pytest.mark.parametrize(("kv_heads", "grouped"), [(6, {}), (2, {"enable_gqa": True})])
def test_the_kernel_gets_the_length_that_the_learner_knows_and_the_host_does_not_wait(monkeypatch, kv_heads, grouped):
    calls = []

    def varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, **settings) -> Tensor:  # type: ignore[no-untyped-def]
        calls.append((q.shape, k.shape, max_q, max_k, settings))
        return q

    module = ModuleType("torch.nn.attention.varlen")
    vars(module).update(varlen_attn=varlen_attn)
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def heads(count: int) -> Tensor:
        return torch.zeros(1, count, 10, 4, dtype=torch.bfloat16).as_subclass(OnCard)

    bounds = torch.tensor([0, 3, 10], dtype=torch.int32).as_subclass(OnCard)
    out, _ = packed_attention(
        nn.Module(), heads(6), heads(kv_heads), heads(kv_heads), None,
        cu_seq_lens_q=bounds, max_length_q=7, scaling=0.5, sliding_window=7,
    )  # fmt: skip
    assert out.shape == (1, 10, 6, 4)
    assert calls == [((10, 6, 4), (10, kv_heads, 4), 7, 7, {"scale": 0.5, "window_size": (-1, 0)} | grouped)]


def test_a_caller_that_does_not_know_the_longest_sequence_has_it_measured() -> None:
    from rl.types import BadInput

    x = torch.zeros(1, 2, 10, 4)
    bounds = torch.tensor([0, 3, 10], dtype=torch.int32)
    with pytest.raises(BadInput, match="longer than the model's sliding window of 6"):
        packed_attention(nn.Module(), x, x, x, None, cu_seq_lens_q=bounds, sliding_window=6)
