"""The exported model says what Aha's sampler says: in plain transformers and in plain vLLM, greedily, in float32."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from rl.backend import SampleParams, Task
from rl.config import RunConfig
from rl.export.folder import Sampling, export_folder
from rl.settings.overrides import to_json
from rl.types import SampleRequest
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow import inputs

TEXTS = [f"reverse {digits}:" for digits in ("1234", "9817", "4466", "7123", "5599", "8261")]
TOKENS = 24

PLAIN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
llm = LLM(model=folder, dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True)
found = llm.generate([{"prompt_token_ids": p} for p in prompts], SamplingParams(temperature=0.0, max_tokens=tokens))
print("FOUND " + json.dumps([list(f.outputs[0].token_ids) for f in found]))
"""


def test_the_exported_model_gives_the_samplers_greedy_tokens_in_transformers_and_in_vllm(
    tiny: RunConfig, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from tests.integration.test_learner import OPTIM, packed, scored_groups

    path = inputs.resolve_model("recipes.tiny_model:tied")
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    # The rollouts that move it are made up, so their logprobs are nobody's.
    grpo = dataclasses.replace(tiny.grpo, max_logprob_gap=10.0)
    rows = dataclasses.replace(tiny, learner=dataclasses.replace(tiny.learner, layout="rows"))
    backend = RayBackend(dataclasses.replace(tiny, grpo=grpo))
    try:
        backend.start(path, 256)
        backend.load(Task(path, OPTIM, 10, grpo, path))
        backend.sync_weights(0)
        before = sampled(backend, prompts, tokenizer.eos_token_id)
        backend.step(packed(rows, grpo, scored_groups(8)))  # so that the export cannot be the model it began with
        backend.sync_weights(1)
        wanted = sampled(backend, prompts, tokenizer.eos_token_id)
        tiny.run_dir.mkdir(parents=True)
        (tiny.run_dir / "resolved.json").write_text(to_json(tiny))
        backend.export(tiny.run_dir / "model")
    finally:
        backend.close()
    assert wanted != before
    out = export_folder(tiny.run_dir, tmp_path / "exported", ollama=True, sampling=Sampling())
    assert in_transformers(out, prompts) == wanted
    assert in_vllm(out, prompts) == wanted


def sampled(backend: RayBackend, prompts: list[list[int]], end: int) -> list[list[int]]:
    params = SampleParams(temperature=0.0, top_p=1.0, max_new_tokens=TOKENS, stop=(), stop_token_ids=(end,))
    requests = [SampleRequest(i, prompt, [0]) for i, prompt in enumerate(prompts)]
    found = {i: rollouts[0].token_ids_T.tolist() for i, rollouts in backend.rollouts(requests, params)}
    return [found[i] for i in range(len(prompts))]


def in_transformers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = [model.generate(torch.tensor([p]), do_sample=False, max_new_tokens=TOKENS)[0].tolist() for p in prompts]
    return [ids[len(p) :] for ids, p in zip(found, prompts, strict=True)]


def in_vllm(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """vLLM as its users start it, in a process of its own."""
    env = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_VLLM, str(folder), json.dumps(prompts), str(TOKENS)],
        env=env, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found: list[list[int]] = json.loads(line.removeprefix("FOUND "))
    return found
