"""Under ZeRO-3 two ranks load a model in shards: at no time is more of it whole than one tensor, and nothing changes.

This file is also the program that each of the two ranks runs: python -m tests.integration.test_sharded RANK PORT.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from rl.config import LoraConfig, RunConfig
from rl.model import Policy, load_policy
from rl.types import AhaError
from rl.workers.remote import free_port

RANKS = 2
CASES = {
    "tied_float32": ("recipes.tiny_model:tied", "float32", 0),
    "untied_bfloat16": ("recipes.tiny_model:untied", "bfloat16", 0),
    "tied_bfloat16_lora": ("recipes.tiny_model:tied", "bfloat16", 4),
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


def load(cfg: RunConfig, rank: int) -> dict[str, object]:
    """What one rank sees of a sharded load, compared with an unsharded one."""
    import deepspeed

    from rl.pipeline import resolve_model
    from rl.workers.learner import Learner
    from rl.workers.outgoing import DTYPES

    path, dtype = resolve_model(cfg.model.path), DTYPES[cfg.model.dtype]
    learner = Learner(cfg, rank, "cpu", 1)
    if not torch.distributed.is_initialized():
        learner.connect("127.0.0.1", int(sys.argv[2]))
    random = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        whole = Whole(patch)
        policy = learner._load_policy(path, torch.float32, cfg.model.lora)
    base = {n: p for n, p in policy.named_parameters() if ".lora_" not in n}
    found: dict[str, object] = {
        "most_whole": whole.most,
        "largest": max(p.ds_numel for p in base.values()),
        "total": sum(p.ds_numel for p in base.values()),
        "states": sorted({p.ds_status.name for p in base.values()}),
        "whole_after": sum(p.numel() for p in base.values()),
        "share": sum(p.ds_tensor.numel() for p in base.values()),
        "random_state_is_left_alone": torch.equal(random, torch.get_rng_state()),
    }
    want = load_policy(path, cfg.learner, learner.device, dtype=torch.float32, lora=cfg.model.lora, seed=cfg.seed)
    return found | {"differ": differences(policy, want, dtype, deepspeed.zero.GatheredParameters)}


def differences(got: Policy, want: Policy, dtype: torch.dtype, gathered: type) -> list[str]:
    """Names of parameters and buffers that are not, bit for bit, those of an unsharded model cast to dtype."""
    wanted, parameters = dict(want.named_parameters()), dict(got.named_parameters())
    if list(wanted) != list(parameters) or got.tied_names() != want.tied_names():
        return ["their names"]
    found = []
    for name, parameter in parameters.items():
        with gathered([parameter] if ".lora_" not in name else []):
            if parameter.dtype != dtype or not torch.equal(parameter.data, wanted[name].data.to(dtype)):
                found.append(name)
    buffers = dict(want.named_buffers())
    # DeepSpeed leaves buffers as they are: the rotary embedding's frequencies stay float32 in a bfloat16 model.
    for name, buffer in got.named_buffers():
        if buffer.dtype != buffers[name].dtype or not torch.equal(buffer, buffers[name]):
            found.append(name)
    return found if buffers else ["no buffers"]


def config(path: str, dtype: str, rank: int) -> RunConfig:
    from recipes.tiny import recipe

    cfg = recipe()
    learner = dataclasses.replace(cfg.learner, zero_stage=3, ranks=RANKS, layout="rows", threads=1)
    lora = LoraConfig(rank=rank, alpha=16)
    return dataclasses.replace(
        cfg, learner=learner, model=dataclasses.replace(cfg.model, path=path, dtype=dtype, lora=lora)
    )


@pytest.fixture(scope="module")
def loads() -> list[dict[str, dict[str, object]]]:
    """For each rank, case -> what it saw."""
    command = [sys.executable, "-m", "tests.integration.test_sharded"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    port = str(free_port())
    ranks = [
        subprocess.Popen([*command, str(rank), port], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    try:
        printed = [rank.communicate(timeout=600)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in printed]


@pytest.mark.parametrize("case", CASES)
def test_a_sharded_load_is_never_whole_and_gives_exactly_the_model_of_an_unsharded_one(loads, case: str) -> None:  # type: ignore[no-untyped-def]
    for found in (rank[case] for rank in loads):
        assert found["differ"] == []
        assert found["random_state_is_left_alone"]
        assert found["states"] == ["NOT_AVAILABLE"]
        assert found["whole_after"] == 0
        assert found["most_whole"] <= found["largest"] < found["total"] / 2
        assert found["share"] == pytest.approx(found["total"] / RANKS, rel=0.01)


def test_a_model_that_was_loaded_whole_is_refused() -> None:
    from rl.workers.sharded import refuse_whole_parameters

    with pytest.raises(AhaError, match=r"model: 2 parameters, the first of them weight, were loaded whole"):
        refuse_whole_parameters(nn.Linear(2, 3), "model")


if __name__ == "__main__":
    seen = {name: load(config(*case), int(sys.argv[1])) for name, case in CASES.items()}
    torch.distributed.barrier()
    print(json.dumps(seen))
