"""A group's prompt computed once: attention in which sequences have their first tokens in common.

The tokens that are computed lie end to end in one row: of each group the first sequence whole, of every other one only
what follows the shared prompt. So linear layers multiply P + G L tokens in place of G (P + L), without padding.

    group of 3, prompt a b:   row  a b c d | e f g | h       sequences  a b c d,  a b e f g,  a b h

Attention of such a shorter sequence has two parts: every earlier token of its own (causal), and the whole shared
prompt, which lies in the group's first sequence. Each part is a softmax over its own keys with a log-sum-exp; weighted
by exp(lse_part - lse) they add up to the softmax over all keys. Backward needs no new formula: given the merged output
and the merged log-sum-exp, the kernel's backward of a part returns exactly that part's gradients, and the gradients of
the prompt's keys and values are summed over the group.

Axis suffixes: _T tokens of the micro-batch, _N tokens that are computed, _R places in padded rows, _S sequences, _M
tokens of a Reader; H heads, K key-value heads, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROOMIEST = 1.25
"""Sequences share a block of padded rows while its attention costs at most so many times what theirs alone would."""

_aten = torch.ops.aten
"""The kernels under torch's scaled_dot_product_attention: the public function hides the log-sum-exp. Those for GPUs
take bfloat16 and float16 alone; this way to call them has not run on a GPU yet, so share_prompts=auto is off there.
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one length, at start..stop of the padded places."""

    start: int
    stop: int
    rows: int

    def of(self, x_RHd: Tensor) -> Tensor:
        """This block's rows, (rows, H, length, d) or, of log-sum-exps (R, H), (rows, H, length)."""
        return x_RHd[self.start : self.stop].unflatten(0, (self.rows, -1)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Reader:
    """Sequences that read another one's prompt: where their tokens and the prompt's are among the computed ones."""

    start: int
    stop: int
    prompt_start: int
    prompt_stop: int


class Sharing:
    """Which tokens of a micro-batch are computed, where each token's values are found, and who attends to whose prompt.

    computed_N: indices into the micro-batch. row_T: for each token of the micro-batch its index among the computed
    ones. place_N: for each computed one its place in the padded rows of attention. longest: tokens of the longest
    sequence, its prompt included. calls: how often a model's attention has used it (Backbone.hidden_at).
    """

    def __init__(self, lengths_S: np.ndarray, shared_S: np.ndarray, device: torch.device) -> None:
        """shared_S: how many of a sequence's first tokens are those of its group's first sequence; 0 for that one."""
        firsts = np.flatnonzero(shared_S == 0)
        first_S = firsts[np.searchsorted(firsts, np.arange(len(lengths_S)), side="right") - 1]
        own_S = lengths_S - shared_S
        start_S, row_start_S = _starts(lengths_S), _starts(own_S)
        inside_T = np.arange(lengths_S.sum()) - np.repeat(start_S, lengths_S)
        in_prompt_T = inside_T < np.repeat(shared_S, lengths_S)
        row_T = inside_T + np.repeat(np.where(shared_S > 0, row_start_S - shared_S, row_start_S), lengths_S)
        row_T[in_prompt_T] = (inside_T + np.repeat(row_start_S[first_S], lengths_S))[in_prompt_T]
        self.readers = tuple(_readers(row_start_S, own_S, first_S, shared_S))
        place_S, self.blocks = _blocks(own_S)
        inside_N = np.arange(own_S.sum()) - np.repeat(row_start_S, own_S)
        self.num_places = self.blocks[-1].stop if self.blocks else 0
        self.longest, self.calls = int(lengths_S.max(initial=0)), 0
        put = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device)  # noqa: E731
        self.computed_N = put(np.flatnonzero(~in_prompt_T))
        self.row_T = put(row_T)
        self.place_N = put(np.repeat(place_S, own_S) + inside_N)

    def pad(self, x_NHd: Tensor) -> Tensor:
        """The values in padded rows: (R, H, d), with 0 at the padding."""
        return x_NHd.new_zeros(self.num_places, *x_NHd.shape[1:]).index_copy_(0, self.place_N, x_NHd)

    def unpad(self, parts: Sequence[Tensor]) -> Tensor:
        """The blocks' rows (rows, H, length, ...) as values of the computed tokens, (N, H, ...)."""
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts]).index_select(0, self.place_N)


def check_shared(token_ids_T: np.ndarray, lengths_S: np.ndarray, shared_S: np.ndarray) -> None:
    """Raise ValueError unless each sequence begins with the tokens that it is said to share with its group's first."""
    start_S, first = _starts(lengths_S), 0
    for s, shared in enumerate(shared_S.tolist()):
        if shared == 0:
            first = s
            continue
        a, b = (token_ids_T[at : at + shared] for at in (start_S[first], start_S[s]))
        if s == 0 or shared >= lengths_S[s] or shared > lengths_S[first] or not np.array_equal(a, b):
            raise ValueError(
                f"sequence {s} does not begin with the {shared} tokens that it shares with sequence {first}"
            )


def _starts(lengths_S: np.ndarray) -> np.ndarray:
    """Lengths [4, 3, 1] -> [0, 4, 7]."""
    starts: np.ndarray = np.cumsum(lengths_S) - lengths_S
    return starts


def _readers(row_start_S: np.ndarray, own_S: np.ndarray, first_S: np.ndarray, shared_S: np.ndarray) -> Iterator[Reader]:
    """The neighbouring sequences that read the same tokens of the same first sequence, as one reader."""
    begin = 0
    for s in range(1, len(own_S) + 1):
        if s < len(own_S) and (first_S[s], shared_S[s]) == (first_S[begin], shared_S[begin]):
            continue
        if shared := int(shared_S[begin]):
            prompt = int(row_start_S[first_S[begin]])
            yield Reader(int(row_start_S[begin]), int(row_start_S[s - 1] + own_S[s - 1]), prompt, prompt + shared)
        begin = s


def _blocks(own_S: np.ndarray) -> tuple[np.ndarray, tuple[Block, ...]]:
    """(the place where each sequence's row begins, the blocks): sequences of similar lengths share a block.

    Lengths 10, 4, 9 -> blocks of 2 rows of 10 and of 1 row of 4; the rows begin at 0, 20 and 10.
    """
    place_S, blocks = np.zeros(len(own_S), np.int64), []
    order, start = np.argsort(-own_S, kind="stable"), 0
    while len(order):
        length = int(own_S[order[0]])
        needed = np.cumsum(own_S[order].astype(np.float64) ** 2)
        fits = np.arange(1, len(order) + 1) * length**2 <= ROOMIEST * needed
        rows = int(np.argmin(fits)) if not fits.all() else len(order)
        place_S[order[:rows]] = start + length * np.arange(rows)
        blocks.append(Block(start, start + rows * length, rows))
        start, order = start + rows * length, order[rows:]
    return place_S, tuple(blocks)


class _SharedAttention(torch.autograd.Function):
    """softmax(scale q k) v of the computed tokens (N, H or K, d); on a CPU in float32 whatever their dtype."""

    @staticmethod
    def forward(ctx, q, k, v, sharing: Sharing, scale):  # type: ignore[no-untyped-def]
        own = [_wide(x) for x in (q, k, v)]
        padded = [sharing.pad(x) for x in own]
        parts = [_attend(*(b.of(x) for x in padded), causal=True, scale=scale) for b in sharing.blocks]
        out_NHd, lse_NH = sharing.unpad([p[0] for p in parts]).float(), sharing.unpad([p[1] for p in parts])
        for r in sharing.readers:
            out_MHd, lse_MH = out_NHd[r.start : r.stop], lse_NH[r.start : r.stop]
            part, part_lse = _attend(*_views(r, *own), causal=False, scale=scale)
            part, part_lse = part[0].transpose(0, 1), part_lse[0].transpose(0, 1)
            both_MH = torch.logaddexp(lse_MH, part_lse)
            out_MHd.mul_(torch.exp(lse_MH - both_MH)[..., None])
            out_MHd.addcmul_(part.float(), torch.exp(part_lse - both_MH)[..., None])
            lse_MH.copy_(both_MH)
        ctx.sharing, ctx.scale = sharing, scale
        ctx.save_for_backward(q, k, v, out_NHd.to(own[0].dtype), lse_NH)
        return out_NHd.to(q.dtype)

    @staticmethod
    def backward(ctx, grad_NHd):  # type: ignore[no-untyped-def]
        q, k, v, out_NHd, lse_NH = ctx.saved_tensors
        sharing, scale = ctx.sharing, ctx.scale
        own, grad_NHd = [_wide(x) for x in (q, k, v)], _wide(grad_NHd)
        padded = [sharing.pad(x) for x in (grad_NHd, *own, out_NHd, lse_NH)]
        parts = [_attend_backward(*(b.of(x) for x in padded), causal=True, scale=scale) for b in sharing.blocks]
        grads = [sharing.unpad([part[i] for part in parts]).float() for i in range(3)]
        for r in sharing.readers:
            rows, prompt = slice(r.start, r.stop), slice(r.prompt_start, r.prompt_stop)
            lse_1HM = lse_NH[rows].transpose(0, 1)[None]
            gradient, merged = _row(grad_NHd[rows]), _row(out_NHd[rows])
            part = _attend_backward(gradient, *_views(r, *own), merged, lse_1HM, causal=False, scale=scale)
            for grad, added, at in zip(grads, part, (rows, prompt, prompt), strict=True):
                grad[at].add_(added[0].transpose(0, 1))
        return *(grad.to(q.dtype) for grad in grads), None, None


def _wide(x: Tensor) -> Tensor:
    """The dtype that a kernel computes in: bfloat16 is six times slower in PyTorch's attention on a CPU."""
    return x if x.is_cuda else x.float()


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """One softmax over all keys, (B, H, length, d), and its log-sum-exps, (B, H, length) in float32."""
    if q.is_cuda:
        out, lse = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]
    else:
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v, given the output and the log-sum-exps of the softmax over the keys of all parts."""
    if q.is_cuda:
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        gradients: tuple[Tensor, Tensor, Tensor] = _aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2], 0.0, causal,
            no_dropout, no_dropout, scale=scale,
        )  # fmt: skip
        return gradients
    gradients = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal, scale=scale
    )
    return gradients


def _row(x_MHd: Tensor) -> Tensor:
    """(M, H, d) as a batch of one row, (1, H, M, d)."""
    return x_MHd.transpose(0, 1)[None]


def _views(r: Reader, q_NHd: Tensor, k_NKd: Tensor, v_NKd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reader's queries, and the keys and values of the prompt that it reads."""
    prompt = slice(r.prompt_start, r.prompt_stop)
    return _row(q_NHd[r.start : r.stop]), _row(k_NKd[prompt]), _row(v_NKd[prompt])


def shared_attention(query: Tensor, key: Tensor, value: Tensor, sharing: Sharing, scale: float | None) -> Tensor:
    """Attention over the computed tokens: (1, H, N, d), (1, K, N, d) twice -> (1, N, H, d)."""
    sharing.calls += 1
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out_NHd: Tensor = _SharedAttention.apply(q, k, v, sharing, scale)
    return out_NHd[None]
