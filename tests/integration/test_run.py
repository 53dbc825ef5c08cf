"""Whole runs through the real parts: the recipe end to end, the sync path, kill and resume."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from rl.backend import SampleParams, Task
from rl.config import RewardConfig, RunConfig
from rl.settings.overrides import to_json
from rl.types import AhaError, BadInput, Prompt, Rollout, RolloutGroup, SampleRequest
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow import inputs
from rl.workflow.run import run
from tests.integration.conftest import shortened

ROOT = Path(__file__).parents[2]


def start_backend(cfg: RunConfig) -> RayBackend:
    return RayBackend(cfg)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that nobody touched, finished."""
    tiny = shortened(tmp_path_factory.mktemp("alone"))
    cfg = dataclasses.replace(
        tiny,
        name="alone",
        sft=dataclasses.replace(tiny.sft, steps=4, examples_per_step=8),
        grpo=dataclasses.replace(tiny.grpo, steps=6, ref_refresh_steps=2),
        checkpoint=dataclasses.replace(tiny.checkpoint, every=1),
        learner=dataclasses.replace(tiny.learner, threads=1),
        evaluation=dataclasses.replace(tiny.evaluation, every=3),
        # Each start would spend ten seconds on importing a verifier of mathematics.
        rewards=(RewardConfig("tests.integration.helpers:digit_share"),),
    )
    run(cfg, start_backend)
    return cfg


def test_a_recipe_runs_from_random_weights_to_its_summary(alone: RunConfig) -> None:
    summary = json.loads((alone.run_dir / "summary.json").read_text())
    assert summary["steps"] == 6
    assert set(summary["before"]) == {"pass@1", "stderr", "greedy"}
    order = [
        ("sft", 0),
        ("sft", 1),
        ("sft", 2),
        ("sft", 3),
        ("eval", 0),
        ("grpo", 0),
        ("grpo", 1),
        ("grpo", 2),
        ("eval", 3),
    ]
    assert [(r["stage"], r["step"]) for r in _records(alone)][:9] == order
    _check_run(alone)


def test_a_recipe_runs_on_two_ranks_of_zero_3_and_two_samplers_fed_from_one_queue(tiny: RunConfig) -> None:
    cfg = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, path="recipes.tiny_model:untied"),
        learner=dataclasses.replace(tiny.learner, ranks=2, zero_stage=3),
        sampler=dataclasses.replace(tiny.sampler, count=2, deterministic=False),
    )
    run(cfg, start_backend)
    _check_run(cfg)


def _check_run(cfg: RunConfig) -> None:
    """Every rollout is on disk with its reward parts, sampler and learner agree, and the export loads elsewhere."""
    rollouts = pandas.read_parquet(sorted((cfg.run_dir / "rollouts").glob("step_*.parquet"))[0])
    assert len(rollouts) == cfg.grpo.rollouts_per_step
    assert {"reward", "policy_version", "finish_reason"} <= set(rollouts.columns)
    gaps = [r["gap/mean"] for r in _records(cfg) if r["stage"] == "grpo"]
    assert len(gaps) == cfg.grpo.steps
    assert all(gap < 1e-4 for gap in gaps), gaps
    _check_export(cfg)


def _check_export(cfg: RunConfig) -> None:
    """The exported folder loads in plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cfg.run_dir / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("reverse 1234:", return_tensors="pt", add_special_tokens=False)
    assert model(**{"input_ids": ids["input_ids"]}).logits.shape[-1] == 64


# ------------------------------------------------------------------------------------------------ sync


def requests_for(num: int, samples: int, length: int = 8) -> list[SampleRequest]:
    rng = np.random.default_rng(0)
    return [
        SampleRequest(i, rng.integers(2, 40, length).tolist(), [100 * i + j for j in range(samples)])
        for i in range(num)
    ]


PARAMS = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=16, stop=(), stop_token_ids=(0,))


@pytest.mark.parametrize(("model", "dtype", "limit"), [("tied", "float32", 1e-4), ("untied", "bfloat16", 0.02)])
def test_sampler_and_learner_agree_from_node_to_node_and_stale_weights_and_dead_samplers_are_noticed(
    tiny: RunConfig, model: str, dtype: str, limit: float
) -> None:
    from ray.util import placement_group_table

    from rl.rollouts.waiting import refuse_other_versions
    from tests.integration.test_learner import OPTIM, packed, scored_groups

    path = inputs.resolve_model(f"recipes.tiny_model:{model}")
    grpo = dataclasses.replace(tiny.grpo, kl_coef=0.0, max_logprob_gap=10.0)
    cfg = dataclasses.replace(
        tiny, model=dataclasses.replace(tiny.model, dtype=dtype), grpo=grpo,
        learner=dataclasses.replace(tiny.learner, layout="rows"),
        # Three of a node's four CPUs each: learner and sampler cannot share a node.
        cluster=dataclasses.replace(tiny.cluster, cpus_per_worker=3.0),
    )  # fmt: skip
    backend = ForgetfulBackend(cfg)

    def gap_after_sync(version: int) -> float:
        backend.step(packed(cfg, grpo, scored_groups(8, seed=version)))
        backend.sync_weights(version)
        return backend.measure_gap(packed(cfg, grpo, _sampled(backend))[0].micro_batches_R)[0]

    try:
        backend.start(path, 256)
        backend.load(Task(path, OPTIM, 10, grpo))
        assert len(set(placement_group_table(backend.reserved.group)["bundles_to_node_id"].values())) == 2
        assert len(backend.reward_actors.workers) == 2  # a reward worker on each node
        backend.sync_weights(0)
        # A stop text may be a special token: here the only one that may be sampled.
        special = dataclasses.replace(PARAMS, stop=("<|end|>",), stop_token_ids=(), only=(0,))
        ((_, (stopped,)),) = backend.rollouts(requests_for(1, 1), special)
        assert (stopped.token_ids_T.tolist(), stopped.finish_reason) == ([0], "stop")
        gap_after_sync(1)
        mean = gap_after_sync(2)
        assert mean < limit
        groups = _sampled(backend)
        assert all(len({r.token_ids_T.tobytes() for r in g.group.rollouts_G}) > 1 for g in groups), (
            "samples are identical"
        )
        # One more update whose weights never reach the sampler: the gap must show it.
        backend.step(packed(cfg, grpo, scored_groups(8, seed=7)))
        stale, _ = backend.measure_gap(packed(cfg, grpo, groups)[0].micro_batches_R)
        assert stale > 10 * mean
        with pytest.raises(AhaError, match="the loop sent 3"):
            refuse_other_versions(groups[0].group, 3)
        if model == "untied":
            _kill_and_sample_again(backend)
        else:
            # The trap of CPU samplers: without the explicit head an update leaves the output head on its old weights.
            backend.forget_head()
            assert gap_after_sync(3) > 1e-2
    finally:
        backend.close()


def _kill_and_sample_again(backend: RayBackend) -> None:
    """A sampler that dies with work in hand is started again, gets the current weights, and gives the same tokens."""

    def tokens() -> dict[int, list[list[int]]]:
        return {i: [r.token_ids_T.tolist() for r in rs] for i, rs in backend.rollouts(requests_for(8, 4), PARAMS)}

    backend.sync_weights(3)
    want = tokens()
    assert backend.memory().keys() == {"memory/learner_gib", "memory/sampler_gib"}
    _kill(backend.samplers[0])
    assert backend.memory() == {}  # and no error: the work that follows finds who is gone
    assert tokens() == want
    assert backend.restarts == 1
    # One that dies while no rollout runs is started again by the next sync.
    _kill(backend.samplers[0])
    backend.sync_weights(3)
    assert tokens() == want
    assert backend.restarts == 2


def _kill(actor) -> None:  # type: ignore[no-untyped-def]
    """Returns once the actor is dead: for a moment after a kill it may still answer."""
    import ray

    ray.kill(actor)
    deadline = time.monotonic() + 60
    while True:
        try:
            ray.get(actor.ping.remote(), timeout=60)
        except ray.exceptions.RayActorError:
            return
        assert time.monotonic() < deadline, "the actor still answers a minute after its kill"


def _sampled(backend: RayBackend):  # type: ignore[no-untyped-def]
    from rl.types import Prompt, RolloutGroup, ScoredGroup

    requests = requests_for(4, 4)
    out = []
    for i, rollouts in backend.rollouts(requests, PARAMS):
        prompt = Prompt(i, i, requests[i].prompt_token_ids, "", "", {})
        n = len(rollouts)
        out.append(ScoredGroup(RolloutGroup(prompt, rollouts), [0.0] * n, [{}] * n, [1.0] * n, [True] * n, False))
    return out


class ForgetfulBackend(RayBackend):
    """Sends everything but the tied head, from when forget_head is called."""

    def forget_head(self) -> None:
        import ray

        def forget(host):  # type: ignore[no-untyped-def]
            host.learner.policy.tied_names = dict

        ray.get([h.__ray_call__.remote(forget) for h in self.learners])


def test_the_samplers_residual_is_not_rounded_to_bfloat16_and_its_norm_is_right() -> None:
    from rl.workers.sampler.precision import add_and_norm

    x = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    small = torch.tensor([[2.0**-10, -(2.0**-10)]])  # lost in bfloat16, whose steps are 2^-7 at 1
    normed, total = add_and_norm(x, small, torch.tensor([2.0, 1.0], dtype=torch.bfloat16), 0.0)
    assert total.tolist() == [[1 + 2.0**-10, 2 - 2.0**-10]]
    # mean square 2.5, so the factor is 0.6325
    assert normed.dtype == torch.bfloat16
    assert normed.float().tolist()[0] == pytest.approx([2 * 0.6325, 2 * 0.6325], rel=2**-8)


def test_a_reward_worker_killed_in_the_middle_of_a_group_changes_nothing_but_a_counter(tiny: RunConfig) -> None:
    slow = RewardConfig("tests.integration.helpers:slow_digit_share")
    backend = RayBackend(dataclasses.replace(tiny, rewards=(slow,)))
    rollout = Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), "12ab", "stop", 1.0, 0, 0)
    group = RolloutGroup(Prompt(0, 0, [1], "", "", {}), [rollout] * 4)
    try:
        backend.reward_actors.start()
        result = backend.ask_rewards(group)
        time.sleep(0.3)
        os.kill(backend.reward_actors.worker_pids[0], signal.SIGKILL)
        report = result()
        assert [parts["slow_digit_share"].score for parts in report.parts_G] == [0.5] * 4
        assert report.replaced == 1
        assert backend.ask_rewards(group)().replaced == 0
    finally:
        backend.close()


def test_a_cluster_too_small_for_the_placement_is_refused_with_the_numbers(tiny: RunConfig) -> None:
    cfg = dataclasses.replace(tiny, cluster=dataclasses.replace(tiny.cluster, cpus_per_worker=100.0))
    with pytest.raises(BadInput, match="8 CPUs, but 1 learner ranks and 1 samplers need 200"):
        RayBackend(cfg)


# ------------------------------------------------------------------------------------------------ kill and resume


@pytest.mark.parametrize(
    "stages",
    [
        ["sft-saving", "grpo-saving"],
        pytest.param(["sft-saving", "grpo", "grpo-saving", "grpo", "eval"], marks=pytest.mark.slow),
    ],
    ids=["two", "five"],
)
def test_a_run_killed_at_random_points_ends_with_the_weights_of_one_left_alone(
    alone: RunConfig, tmp_path: Path, stages: list[str]
) -> None:
    killed = dataclasses.replace(alone, name=f"killed-{len(stages)}")
    rng = random.Random(7)
    kills = 0
    for stage in stages:
        kills += _run_and_kill(killed, tmp_path, stage, rng)
    assert _run_and_kill(killed, tmp_path, None, rng) == 0
    assert kills == len(stages)
    assert _weights(killed) == _weights(alone)
    moved = [r["grad_norm"] for r in _records(alone) if r["stage"] == "grpo"]
    assert min(moved) > 0, "GRPO did not move the weights, so equal weights would prove nothing"
    for cfg in (killed, alone):
        names = [(r["stage"], r["step"]) for r in _records(cfg)]
        assert len(names) == len(set(names)) == 4 + 6 + 3
    draws = [_draws(cfg) for cfg in (killed, alone)]
    assert draws[0] == draws[1] == sorted(range(6 * killed.grpo.prompts_per_step))


def _weights(cfg: RunConfig) -> dict[str, str]:
    import hashlib

    from safetensors import safe_open

    with safe_open(cfg.run_dir / "model" / "model.safetensors", "np") as file:
        return {name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() for name in file.keys()}  # noqa: SIM118


def _records(cfg: RunConfig) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (cfg.run_dir / "metrics.jsonl").read_text().splitlines()]


def _draws(cfg: RunConfig) -> list[int]:
    frames = [pandas.read_parquet(p) for p in sorted((cfg.run_dir / "rollouts").glob("step_*.parquet"))]
    return sorted({int(d) for frame in frames for d in frame["draw"]})


def _run_and_kill(cfg: RunConfig, tmp_path: Path, when: str | None, rng: random.Random) -> int:
    """Run in a process of its own (in the tests' cluster) and SIGKILL it at a random moment of a phase."""
    import ray

    recipe = tmp_path / "recipe.json"
    recipe.write_text(to_json(cfg))
    log = tmp_path / f"run-{time.time():.0f}.log"
    env = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "run", str(recipe)], stdout=out, stderr=out, cwd=ROOT, env=env
        )
        already = _progress(cfg)
        deadline = time.monotonic() + 240
        while process.poll() is None:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            if when and _reached(cfg, when, already):
                time.sleep(rng.random() * 0.5)
                process.send_signal(signal.SIGKILL)
                process.wait()
                return 1
            time.sleep(0.01)
    assert process.returncode == 0, log.read_text()[-3000:]
    return 0


def _progress(cfg: RunConfig) -> dict[str, int]:
    path = cfg.run_dir / "metrics.jsonl"
    records = [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")] if path.exists() else []
    return {s: max((r["step"] for r in records if r["stage"] == s), default=-1) for s in ("sft", "grpo", "eval")}


def _reached(cfg: RunConfig, when: str, already: dict[str, int]) -> bool:
    stage, _, part = when.partition("-")
    if part == "saving":
        return any((cfg.run_dir / "checkpoints" / stage).glob("*.partial"))
    return _progress(cfg)[stage] > already[stage]
