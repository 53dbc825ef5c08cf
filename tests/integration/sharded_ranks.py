"""One rank of test_sharded.py: loads and trains small models under ZeRO-3, in shards and whole, and prints what it saw.

python -m tests.integration.sharded_ranks RANK RANKS PORT REWARD_BASE FOLDER
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import deepspeed
import pytest
import torch
from torch import nn

from rl.backend import Task
from rl.config import LoraConfig, RewardTrainConfig, RunConfig
from rl.data.preference_pairs import encode, pack_preferences
from rl.data.sft_examples import pack_examples
from rl.model.policy import UNSHARDED, Backbone
from rl.model.pretrained import load_tokenizer
from rl.scoring.reward_model_text import Encoder
from rl.settings.precision import torch_dtype
from rl.types import MicroBatch
from rl.workers.learner.learner import Learner
from rl.workflow.inputs import resolve_model
from tests.integration.test_learner import GRPO, OPTIM, packed, scored_groups
from tests.integration.test_sft import examples

STEPS = 3
# case -> the model ("" is the base of a reward model), its precision, its adapters' rank
LOADS = {
    "tied_float32": ("recipes.tiny_model:tied", "float32", 0),
    "untied_bfloat16": ("recipes.tiny_model:untied", "bfloat16", 0),
    "tied_bfloat16_lora": ("recipes.tiny_model:tied", "bfloat16", 4),
    "reward_bfloat16": ("", "bfloat16", 0),
}
RUNS = {
    "grpo_with_reference_and_teacher": ("recipes.tiny_model:tied", "bfloat16", 0),
    "sft_of_adapters": ("recipes.tiny_model:untied", "float32", 4),
    "reward_model": ("", "bfloat16", 0),
}


class Whole:
    """Watches how many numbers of parameters are in memory whole: each time one is made, and as each is filled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[weakref.ref[nn.Parameter]] = []
        self.most = 0
        register, fill = nn.Module.register_parameter, nn.Module._load_from_state_dict

        def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            register(module, name, parameter)
            if parameter is not None:
                self.made.append(weakref.ref(parameter))
            self.look()

        def filled(module: nn.Module, *args: object) -> None:
            self.look()
            fill(module, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(nn.Module, "register_parameter", registered)
        monkeypatch.setattr(nn.Module, "_load_from_state_dict", filled)

    def look(self) -> None:
        alive = {id(p): p for p in (ref() for ref in self.made) if p is not None and p.device.type != "meta"}
        self.most = max(self.most, sum(p.numel() for p in alive.values()))


def config(path: str, dtype: str, lora: int, ranks: int) -> RunConfig:
    from recipes.tiny import recipe

    cfg = recipe()
    learner = dataclasses.replace(cfg.learner, zero_stage=3, ranks=ranks, layout="rows", threads=1)
    model = dataclasses.replace(cfg.model, path=path, dtype=dtype, lora=LoraConfig(rank=lora, alpha=16))
    return dataclasses.replace(cfg, learner=learner, model=model, grpo=GRPO)


def learner_of(cfg: RunConfig, rank: int, port: int) -> Learner:
    learner = Learner(cfg, rank, "cpu", 1)
    if not torch.distributed.is_initialized():
        learner.connect("127.0.0.1", port)
    return learner


# ------------------------------------------------------------------------------------------------ loading


def load(cfg: RunConfig, task: Task, rank: int, port: int) -> dict[str, object]:
    """What one rank sees of a sharded load, compared with an unsharded one."""
    learner = learner_of(cfg, rank, port)
    learner.task = task
    random = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        whole = Whole(patch)
        got = learner._load_trained(torch.float32)
    after = torch.get_rng_state()
    base = {n: p for n, p in got.named_parameters() if ".lora_" not in n}
    found: dict[str, object] = {
        "most_whole": whole.most,
        "largest": max(p.ds_numel for p in base.values()),
        "total": sum(p.ds_numel for p in base.values()),
        "states": sorted({p.ds_status.name for p in base.values()}),
        "whole_after": sum(p.numel() for p in base.values()),
        "share": sum(p.ds_tensor.numel() for p in base.values()),
    }
    torch.set_rng_state(random)
    learner.loading = UNSHARDED
    want = learner._load_trained(torch.float32)
    return found | {
        "random_state_is_that_of_a_whole_load": torch.equal(after, torch.get_rng_state()),
        "differ": differences(got, want, torch_dtype(cfg.model.dtype)),
    }


def differences(got: Backbone, want: Backbone, dtype: torch.dtype) -> list[str]:
    """Names of parameters and buffers that are not, bit for bit, those of an unsharded model cast to dtype."""
    wanted, parameters = dict(want.named_parameters()), dict(got.named_parameters())
    if list(wanted) != list(parameters) or got.tied_names() != want.tied_names():
        return ["their names"]
    found = []
    for name, parameter in parameters.items():
        with deepspeed.zero.GatheredParameters([parameter] if ".lora_" not in name else []):
            if parameter.dtype != dtype or not torch.equal(parameter.data, wanted[name].data.to(dtype)):
                found.append(name)
    buffers = dict(want.named_buffers())
    # DeepSpeed leaves buffers as they are: the rotary embedding's frequencies stay float32 in a bfloat16 model.
    for name, buffer in got.named_buffers():
        if buffer.dtype != buffers[name].dtype or not torch.equal(buffer, buffers[name]):
            found.append(name)
    return found if buffers else ["no buffers"]


# ------------------------------------------------------------------------------------------------ training


def task_and_batches(case: str, cfg: RunConfig, path: str) -> tuple[Task, list[list[list[list[MicroBatch]]]]]:
    """The task, and for each step its updates: each rank's micro-batches."""
    if case.startswith("grpo"):
        grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=2, teacher_coef=0.5)
        steps = [packed(cfg, grpo, scored_groups(8, seed=s)) for s in range(STEPS)]
        task = Task(path, OPTIM, 10, grpo, reference_path=path, teacher_path=path)
        return task, [[batch.micro_batches_R for batch in updates] for updates in steps]
    if case.startswith("sft"):
        batches = [pack_examples(examples(16, s), learner=cfg.learner, layout="rows") for s in range(STEPS)]
        return Task(path, OPTIM, 10), [[batch.micro_batches_R] for batch in batches]
    reward = RewardTrainConfig()
    rows = [{"prompt": "q", "chosen": "a" * (1 + i % 5), "rejected": "b" * (5 - i % 5)} for i in range(8)]
    encoder = Encoder(load_tokenizer(path), 256, thinking=True)
    batch = pack_preferences(encode(rows, reward, encoder, 0).units, learner=cfg.learner, layout="rows")
    return Task(path, OPTIM, 10, reward=reward), [[batch.micro_batches_R]] * STEPS


def run(
    case: str, cfg: RunConfig, path: str, rank: int, port: int, folder: Path, *, sharded: bool
) -> dict[str, object]:
    """Each step's loss and gradient norm, and hashes of the weights; then those of a learner restored before the last.

    exported: hash of the file that rank 0 wrote.
    """
    task, steps = task_and_batches(case, cfg, path)

    def loaded() -> Learner:
        learner = learner_of(cfg, rank, port)
        if not sharded:
            learner.loading = UNSHARDED
        learner.load(task)
        return learner

    def step(learner: Learner, updates: Sequence[list[list[MicroBatch]]]) -> list[object]:
        stats = learner.step([micro_batches_R[rank] for micro_batches_R in updates])
        return [stats.loss, stats.grad_norm, stats.metrics.get("kl", 0.0), learner.weights_hash()]

    folder.mkdir(parents=True, exist_ok=True)
    learner = loaded()
    seen: dict[str, object] = {"start": learner.weights_hash(), "reference": learner.reference_sums()}
    trained = [step(learner, updates) for updates in steps[:-1]]
    learner.save(str(folder))
    trained.append(step(learner, steps[-1]))
    learner.export(str(folder / "model"))
    torch.distributed.barrier()
    exported = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    seen |= {"steps": trained, "refreshed": learner.reference_sums(), "exported": exported}
    learner._free_models()
    again = loaded()
    again.restore(str(folder))
    return seen | {"restored": step(again, steps[-1]), "refreshed_again": again.reference_sums()}


def main() -> None:
    rank, ranks, port = (int(text) for text in sys.argv[1:4])
    reward_base, folder = sys.argv[4], Path(sys.argv[5])
    seen: dict[str, dict[str, object]] = {}
    for path, *_ in LOADS.values():
        if path:  # before the ranks have joined: after that transformers saves on rank 0 alone
            resolve_model(path)
    for name, (path, *case) in LOADS.items():
        cfg = config(path or reward_base, *case, ranks)
        task = Task(resolve_model(cfg.model.path), OPTIM, 1, reward=None if path else RewardTrainConfig())
        seen[name] = load(cfg, task, rank, port)
    for name, (path, *case) in RUNS.items():
        cfg = config(path or reward_base, *case, ranks)
        both = {
            how: run(
                name, cfg, resolve_model(cfg.model.path), rank, port, folder / name / how, sharded=how == "sharded"
            )
            for how in ("sharded", "whole")
        }
        seen[name] = dict(both)
    torch.distributed.barrier()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
