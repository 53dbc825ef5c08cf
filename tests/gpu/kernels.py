"""Checks of single operations on a device: attention inside packed sequences, the logprob head, the checksum."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import varlen

from rl.algorithms.logprobs import chunked_logprobs
from rl.model.attention import packed_attention
from rl.model.shared_prompts import Sharing, shared_attention
from rl.workers.sync.buckets import tensor_checksum
from tests.gpu.report import Figures, require

PACKAGES = ("torch", "triton", "transformers", "peft", "deepspeed", "vllm", "ray")
LENGTHS = (1, 7, 130)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def use_this_torch() -> str:
    """Before torch 2.13 varlen_attn cannot group query heads. There it is replaced by one that repeats the keys and
    values, so that all else can be checked. Returns what was done.
    """
    plain = varlen.varlen_attn
    if "enable_gqa" in inspect.signature(plain).parameters:
        return "torch's own"

    def repeated(query: Tensor, key: Tensor, value: Tensor, *bounds: object, enable_gqa: bool = False, **kw: object):  # type: ignore[no-untyped-def]
        times = query.shape[1] // key.shape[1]
        return plain(query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1), *bounds, **kw)

    varlen.varlen_attn = repeated
    return "keys and values repeated by this check, since torch's varlen_attn has no enable_gqa"


# ------------------------------------------------------------------------------------------------ 1 versions


def versions(device: str) -> Figures:
    """What is installed, and what the card is."""
    found: Figures = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["grouped heads"] = use_this_torch()
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name, "GiB": card.total_memory / 2**30, "capability": f"{card.major}.{card.minor}",
            "CUDA of torch": str(torch.version.cuda), "GPUs": torch.cuda.device_count(),
            "float32 products": torch.get_float32_matmul_precision(),
        }  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------ 2 attention


def plain_attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    """Causal softmax attention in float64, sequence by sequence: (1, heads, T, d) -> (1, T, heads, d)."""
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    parts, start = [], 0
    for length in lengths:
        one = slice(start, start + length)
        scores = q[:, :, one] @ k[:, :, one].transpose(2, 3) / math.sqrt(q.shape[-1])
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        parts.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, :, one])
        start += length
    return torch.cat(parts, dim=2).transpose(1, 2)


def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32, device=q.device)
    return packed_attention(nn.Module(), q, k, v, None, cu_seq_lens_q=bounds, max_length_q=max(LENGTHS))[0]


def off_by(found: Tensor, exact: Tensor) -> float:
    """The largest difference, as a share of the largest exact value."""
    return float((found.double().cpu() - exact).abs().max() / exact.abs().max())


def attention(device: str) -> Figures:
    """Packed attention, output and gradients, against float64; and nothing leaks from one sequence into another."""
    figures: Figures = {"grouped heads": use_this_torch()}
    for dtype, bound in ((torch.bfloat16, 0.02), (torch.float32, 1e-5)):
        for heads, kv_heads in ((9, 9), (9, 3)):
            for size in (64, 128):
                torch.manual_seed(0)
                exact = [torch.randn(1, h, sum(LENGTHS), size).to(dtype).double() for h in (heads, kv_heads, kv_heads)]
                ours = [x.to(device, dtype).requires_grad_() for x in exact]
                exact = [x.requires_grad_() for x in exact]
                out, want = packed(*ours), plain_attention(*exact)
                pull = torch.randn_like(want)
                out.backward(pull.to(device, dtype))
                want.backward(pull)
                worst = max(off_by(out.detach(), want.detach()), *(
                    off_by(x.grad, y.grad) for x, y in zip(ours, exact, strict=True)
                ))  # fmt: skip
                name = f"{str(dtype).removeprefix('torch.')}, heads {heads}/{kv_heads} of {size}: largest error"
                figures[name] = worst
                require(worst < bound, f"{name} is {worst:.2e}, above {bound:g}")
                leaks_nothing(ours)
    return figures


@torch.no_grad()
def leaks_nothing(qkv: list[Tensor]) -> None:
    """Raise Wrong if the longest sequence changes when the others do, or the other way about."""
    last = sum(LENGTHS[:-1])
    before = packed(*qkv)
    for changed, same in ((slice(last, None), slice(0, last)), (slice(0, last), slice(last, None))):
        others = [x.detach().clone() for x in qkv]
        for x in others:
            x[:, :, changed] = 7.0
        require(torch.equal(packed(*others)[:, same], before[:, same]), "attention leaks between sequences")


def shared_prompts(device: str) -> Figures:
    """Attention with a prompt that is computed once, output and gradients, against float64 with a prompt for each."""
    lengths, shared = (135, 7, 66, 66, 12, 13), (0, 5, 5, 5, 0, 11)
    sharing = Sharing(np.array(lengths), np.array(shared), torch.device(device))
    row_T, computed_N = sharing.row_T.cpu(), sharing.computed_N.cpu()
    figures: Figures = {}
    for dtype, bound in ((torch.bfloat16, 0.02), (torch.float32, 1e-5)):
        if device == "cuda" and dtype == torch.float32:
            continue  # there is no such kernel, and such runs are refused
        for heads, kv_heads in ((9, 9), (9, 3)):
            torch.manual_seed(0)
            exact = [torch.randn(1, h, len(computed_N), 64).to(dtype).double() for h in (heads, kv_heads, kv_heads)]
            ours = [x.to(device, dtype).requires_grad_() for x in exact]
            exact = [x.requires_grad_() for x in exact]
            out = shared_attention(*ours, sharing, None)
            want = plain_attention(*(x[:, :, row_T] for x in exact), lengths)[:, computed_N]
            pull = torch.randn_like(want)
            out.backward(pull.to(device, dtype))
            want.backward(pull)
            worst = max(off_by(out.detach(), want.detach()), *(
                off_by(x.grad, y.grad) for x, y in zip(ours, exact, strict=True)
            ))  # fmt: skip
            name = f"{str(dtype).removeprefix('torch.')}, heads {heads}/{kv_heads}: largest error"
            figures[name] = worst
            require(worst < bound, f"{name} is {worst:.2e}, above {bound:g}")
    return figures


# ------------------------------------------------------------------------------------------------ 3 head


def head(device: str) -> Figures:
    """Logprobs and gradients at a vocabulary of 151,936 against float64, and the memory that they take."""
    vocab, hidden, tokens, chunk = (151_936, 256, 1300, 512) if device == "cuda" else (5_003, 64, 130, 48)
    figures: Figures = {}
    for dtype, bound in ((torch.bfloat16, 2e-2), (torch.float32, 1e-4)):
        torch.manual_seed(0)
        h = torch.randn(tokens, hidden).to(dtype)
        w = (torch.randn(vocab, hidden) / 8).to(dtype)
        targets, temperature = torch.randint(vocab, (tokens,)), torch.rand(tokens) + 0.5
        pull = torch.randn(tokens)
        exact = exact_head(h, w, targets, temperature, pull, device)
        for frozen in (False, True):
            hd, wd = h.clone().to(device).requires_grad_(), w.clone().to(device).requires_grad_(not frozen)
            weights = [x.to(device) for x in (targets, temperature, pull)]
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            logprobs, entropy = chunked_logprobs(hd, wd, weights[0], weights[1], chunk)
            logprobs.backward(weights[2])
            found = [logprobs.detach(), entropy, hd.grad, *([] if frozen else [wd.grad])]
            worst = max(off_by(x, y.cpu()) for x, y in zip(found, exact, strict=False))
            name = f"{str(dtype).removeprefix('torch.')}{', frozen head' if frozen else ''}"
            figures[f"{name}: largest error"] = worst
            require(worst < bound, f"head, {name}: off by {worst:.2e}, above {bound:g}")
            require(not frozen or wd.grad is None, "a frozen head has a gradient")
            if device == "cuda":
                peak = torch.cuda.max_memory_allocated() - before
                logits = 4.0 * tokens * vocab
                figures[f"{name}: peak, share of the memory of all logits"] = peak / logits
    return figures


def exact_head(h: Tensor, w: Tensor, targets: Tensor, temperature: Tensor, pull: Tensor, device: str) -> list[Tensor]:
    """[logprobs, entropies, gradient of the hidden states, gradient of the weight] in float64, by plain autograd."""
    h, w = h.to(device).double().requires_grad_(), w.to(device).double().requires_grad_()
    grads: list[list[Tensor]] = [[], []]
    for part in range(0, len(h), 100):  # float64 logits of all tokens would not fit beside the rest
        rows = slice(part, part + 100)
        log_probs = ((h[rows] @ w.T) / temperature[rows, None].to(device).double()).log_softmax(-1)
        chosen = log_probs.gather(1, targets[rows, None].to(device)).squeeze(1)
        chosen.backward(pull[rows].to(device).double())
        grads[0].append(chosen.detach())
        grads[1].append(-(log_probs.exp() * log_probs).sum(-1).detach())
    return [torch.cat(grads[0]), torch.cat(grads[1]), h.grad, w.grad]


# ------------------------------------------------------------------------------------------------ 4 checksums


def checksums(device: str) -> Figures:
    """The learner's checksum of a tensor on the device is the sampler's of the same bytes in host memory."""
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for size in (1, 3, 4, 1001, 5_000_001):
            host = torch.randn(size).to(dtype)
            there = host.to(device)
            require(tensor_checksum(there) == tensor_checksum(host), f"{size} numbers of {dtype} differ by device")
            require(tensor_checksum(there[1:]) == tensor_checksum(host[1:].clone()), f"a slice of {dtype} differs")
    large = torch.randn(64 << 20, device=device).to(torch.bfloat16)
    tensor_checksum(large)
    synchronize(device)
    start = time.perf_counter()
    tensor_checksum(large)
    return {"GB/s": large.numel() * 2 / (time.perf_counter() - start) / 1e9}
