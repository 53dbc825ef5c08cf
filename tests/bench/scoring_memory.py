"""Peak memory of scoring tokens and of its backward: Aha's chunked logprobs against the full logits.

    .venv/bin/python tests/bench/scoring_memory.py [--dtype bfloat16|float32] [--hidden 576] [--vocabulary 49152]

Each case runs in a process of its own. Exit code 1 when the chunked peak grows with tokens x vocabulary, or when the two
ways disagree.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TOKENS = (2048, 8192)
MULTIPLE = 8
"""Allowed growth of the chunked peak: this many float32 numbers per token and hidden unit. The gradient of the hidden
states and a copy of them are 2; one row of logits alone would be vocabulary / hidden = 85."""
WARM_UP_TOKENS = 64
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


def status_mib(name: str) -> float:
    """A line of /proc/self/status that is given in kB, as MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def run_case(method: str, tokens: int, args: argparse.Namespace) -> None:
    """One case, in this process: print the peak above what inputs, weights and libraries take, and what came out."""
    import torch

    from rl.algorithms.logprobs import chunked_logprobs

    def score(hidden_TD: torch.Tensor, targets_T: torch.Tensor, temperature_T: torch.Tensor) -> torch.Tensor:
        if method == "chunked":
            logprobs_T, _ = chunked_logprobs(hidden_TD, weight_VD, targets_T, temperature_T, chunk_tokens=args.chunk)
        else:
            logits_TV = (hidden_TD @ weight_VD.T).float() / temperature_T[:, None]
            logprobs_T = torch.log_softmax(logits_TV, dim=-1).gather(1, targets_T[:, None]).squeeze(1)
            del logits_TV
        logprobs_T.sum().backward()
        return logprobs_T.detach()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[args.dtype]
    weight_VD = (torch.randn(args.vocabulary, args.hidden) * 0.02).to(dtype).requires_grad_()
    hidden_TD = torch.randn(tokens, args.hidden).to(dtype).requires_grad_()
    targets_T = torch.randint(args.vocabulary, (tokens,))
    temperature_T = torch.ones(tokens)
    few = slice(0, WARM_UP_TOKENS)
    score(hidden_TD[few].detach().requires_grad_(), targets_T[few], temperature_T[few])  # loads the libraries' code
    weight_VD.grad = None

    ctypes.CDLL(None).malloc_trim(0)  # what was freed so far would otherwise hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before, start = status_mib("VmRSS"), time.perf_counter()
    logprobs_T = score(hidden_TD, targets_T, temperature_T)
    seconds = time.perf_counter() - start
    assert hidden_TD.grad is not None
    assert weight_VD.grad is not None
    print(
        json.dumps(
            {
                "peak_mib": status_mib("VmHWM") - before,
                "seconds": seconds,
                "mean_logprob": logprobs_T.double().mean().item(),
                "hidden_grad_norm": hidden_TD.grad.double().norm().item(),
                "weight_grad_norm": weight_VD.grad.double().norm().item(),
            }
        )
    )


def measure(method: str, tokens: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", method, str(tokens), "--dtype", args.dtype]
    for name in ("hidden", "vocabulary", "chunk", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=REPO)
    if done.returncode:
        raise SystemExit(f"{method}, {tokens} tokens: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(found: dict[str, dict[int, dict[str, float]]], args: argparse.Namespace) -> list[str]:
    """Print the table; return what is wrong with it."""
    few, many = TOKENS
    print(f"peak memory of scoring + backward, {args.dtype}, hidden {args.hidden}, vocabulary {args.vocabulary}")
    print(f"{'':22}{f'{few} tokens':>14}{f'{many} tokens':>14}{'growth a token':>18}{'seconds':>16}")
    growth = {}
    for method, cases in found.items():
        growth[method] = (cases[many]["peak_mib"] - cases[few]["peak_mib"]) * 1024 / (many - few)
        name = f"chunks of {args.chunk} tokens" if method == "chunked" else "full logits"
        print(
            f"{name:22}{cases[few]['peak_mib']:>10.0f} MiB{cases[many]['peak_mib']:>10.0f} MiB"
            f"{growth[method]:>14.1f} KiB{cases[few]['seconds']:>8.1f}{cases[many]['seconds']:>8.1f}"
        )
    limit, row = MULTIPLE * args.hidden * 4 / 1024, args.vocabulary * 4 / 1024
    print(
        f"allowed: {limit:.1f} KiB a token ({MULTIPLE} float32 numbers a hidden unit); a row of logits: {row:.1f} KiB"
    )
    faults = []
    if growth["chunked"] > limit:
        faults.append(f"the chunked peak grows by {growth['chunked']:.1f} KiB a token, more than {limit:.1f} KiB")
    if growth["full"] < row:
        faults.append(f"the full logits grow by only {growth['full']:.1f} KiB a token: the measurement misses memory")
    for tokens in TOKENS:
        for name in ("mean_logprob", "hidden_grad_norm", "weight_grad_norm"):
            ours, plain = found["chunked"][tokens][name], found["full"][tokens][name]
            if abs(ours - plain) > TOLERANCE[args.dtype] * abs(plain):
                faults.append(f"{name} at {tokens} tokens: chunked {ours:.6g}, full {plain:.6g}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs=2, metavar=("METHOD", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        sys.path.insert(0, str(REPO))
        run_case(args.case[0], int(args.case[1]), args)
        return 0
    faults = report({m: {t: measure(m, t, args) for t in TOKENS} for m in ("chunked", "full")}, args)
    print("\n".join(f"FAIL: {fault}" for fault in faults) or "ok: memory does not grow with tokens x vocabulary")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
