"""SFT and adapters in the real learner: what must not change a number, and what leaves it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.backend import Task
from rl.config import DIVERGENCES, DistillConfig, LoraConfig, RunConfig
from rl.data.sft_examples import pack_examples
from rl.model.added_tokens import with_tokens
from rl.types import Example, PackedBatch, TopLogprobs
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow.run import run
from tests.integration.test_learner import (
    GRPO,
    OPTIM,
    InProcess,
    model_folder,
    packed,
    scored_groups,
    with_learner,
)

LORA = LoraConfig(rank=4, alpha=16)


def examples(num: int, seed: int) -> list[Example]:
    """Examples with made-up tokens, two learnt runs in each: as two answers of a conversation."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(num):
        runs = [(0, rng.integers(3, 8)), (1, rng.integers(2, 12)), (0, rng.integers(1, 5)), (1, rng.integers(2, 12))]
        mask = [bit for bit, n in runs for _ in range(int(n))]
        made.append(Example(rng.integers(2, 40, len(mask)).tolist(), mask))
    return made


def batch_of(cfg: RunConfig, seed: int) -> PackedBatch:
    return pack_examples(examples(16, seed), learner=cfg.learner, layout=cfg.learner.layout)


@contextmanager
def learners(cfg: RunConfig, task: Task) -> Iterator[InProcess | RayBackend]:
    """Learners alone: in this process for one rank, in Ray actors for more."""
    if cfg.learner.ranks == 1:
        learner = InProcess(cfg)
        learner.load(task)
        yield learner
        return
    backend = RayBackend(cfg)
    try:
        backend.start(task.model_path, 256, samplers=False)
        backend.load(task)
        yield backend
    finally:
        backend.close()


def sft_task(cfg: RunConfig) -> Task:
    return Task(model_folder(cfg), OPTIM, 10)


def mean_nll(backend: InProcess | RayBackend, batch: PackedBatch) -> float:
    if isinstance(backend, InProcess):
        return backend.learner.mean_nll(batch.micro_batches_R[0])
    return backend.mean_nll(batch.micro_batches_R)


def trace(cfg: RunConfig) -> tuple[list[float], list[float], dict[str, float]]:
    """Losses, gradient norms and the evaluation loss over a few steps, then the parameters' sums."""
    with learners(cfg, sft_task(cfg)) as backend:
        stats = [backend.step([batch_of(cfg, seed)]) for seed in range(3)]
        nll = mean_nll(backend, batch_of(cfg, 9))
        return [s.loss for s in stats] + [nll], [s.grad_norm for s in stats], backend.parameter_sums()


def tiny_learner(lora: LoraConfig, **learner: object) -> RunConfig:
    from recipes.tiny import recipe

    cfg = with_learner(recipe(), **({"layout": "rows", "threads": 1} | learner))
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora=lora))


@pytest.fixture(scope="module")
def one_rank():  # type: ignore[no-untyped-def]
    """Traces of one rank with ZeRO 1 and padded rows: all weights, and adapters."""
    return {rank: trace(tiny_learner(dataclasses.replace(LORA, rank=rank))) for rank in (0, LORA.rank)}


@pytest.mark.parametrize("rank", [0, LORA.rank], ids=["all_weights", "lora"])
@pytest.mark.parametrize(
    ("zero_stage", "ranks", "layout", "micro_batch_tokens"),
    [(0, 1, "rows", 8192), (1, 1, "packed", 8192), (2, 1, "rows", 80), (3, 1, "packed", 80), (3, 2, "rows", 8192)],
)
def test_two_ranks_with_zero_3_equal_one_rank_and_packed_equals_unpacked(
    one_rank, rank: int, zero_stage: int, ranks: int, layout: str, micro_batch_tokens: int
) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_learner(
        dataclasses.replace(LORA, rank=rank),
        zero_stage=zero_stage, ranks=ranks, layout=layout, micro_batch_tokens=micro_batch_tokens,
    )  # fmt: skip
    losses, norms, sums = trace(cfg)
    want_losses, want_norms, want_sums = one_rank[rank]
    assert losses == pytest.approx(want_losses, abs=2e-5)
    assert norms == pytest.approx(want_norms, rel=5e-4)
    assert sums == pytest.approx(want_sums, rel=1e-4)
    assert losses[1] != pytest.approx(losses[0], abs=1e-3)


def test_the_evaluation_loss_is_the_training_loss_of_the_same_examples_and_trains_nothing() -> None:
    cfg = tiny_learner(LoraConfig(), micro_batch_tokens=80)
    with learners(cfg, sft_task(cfg)) as backend:
        clean = backend.weights_hash()
        nll = mean_nll(backend, batch_of(cfg, 0))
        assert backend.weights_hash() == clean
        stats = backend.step([batch_of(cfg, 0)])
        assert nll == pytest.approx(stats.loss, rel=1e-6)
        assert nll == pytest.approx(stats.metrics["nll"], rel=1e-6)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_what_a_learner_with_adapters_exports_is_a_plain_model_that_scores_the_same(tmp_path, zero_stage: int) -> None:
    cfg = tiny_learner(LORA, zero_stage=zero_stage)
    with learners(cfg, sft_task(cfg)) as backend:
        before = backend.parameter_sums()
        for seed in range(3):
            backend.step([batch_of(cfg, seed)])
        want, after = mean_nll(backend, batch_of(cfg, 9)), backend.parameter_sums()
        backend.learner.export(str(tmp_path / "model"))
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {name for name in before if name.endswith("_proj.weight")}
    plain = tiny_learner(LoraConfig())
    with learners(plain, Task(str(tmp_path / "model"), OPTIM, 10)) as backend:
        assert backend.parameter_sums() == pytest.approx(after, rel=1e-6)
        assert mean_nll(backend, batch_of(cfg, 9)) == pytest.approx(want, abs=1e-5)


def bytes_in(folder: Path, pattern: str = "*") -> int:
    return sum(p.stat().st_size for p in folder.rglob(pattern) if p.is_file())


@pytest.mark.parametrize(
    ("zero_stage", "ranks", "dtype"),
    [(0, 1, "float32"), (1, 1, "bfloat16"), (2, 1, "float32"), (3, 1, "bfloat16"), (3, 2, "float32")],
)
def test_a_restored_learner_with_adapters_goes_on_bit_for_bit_from_a_checkpoint_without_its_base(
    tmp_path, zero_stage: int, ranks: int, dtype: str
) -> None:
    cfg = tiny_learner(LORA, zero_stage=zero_stage, ranks=ranks)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
    with learners(cfg, sft_task(cfg)) as backend:
        for seed in range(2):
            backend.step([batch_of(cfg, seed)])
        backend.save(tmp_path)
        want = backend.step([batch_of(cfg, 2)]).loss, backend.step([batch_of(cfg, 3)]).loss, backend.weights_hash()
    base = bytes_in(Path(model_folder(cfg)), "*.safetensors")  # in float32: in bfloat16 half of it
    assert bytes_in(tmp_path) < 0.25 * base
    for file in tmp_path.rglob("*model_states.pt"):  # the tied head, frozen too, has a second name
        held = torch.load(file, weights_only=False)["module"]
        assert held
        assert all(".lora_" in name for name in held), held.keys()
    with learners(cfg, sft_task(cfg)) as backend:
        backend.restore(tmp_path)
        got = backend.step([batch_of(cfg, 2)]).loss, backend.step([batch_of(cfg, 3)]).loss, backend.weights_hash()
    assert got == want


def test_the_fingerprint_of_a_model_with_adapters_tells_its_base_under_every_zero_stage(teacher: str) -> None:
    def fingerprint(path: str, **changes: object) -> str:
        lora = LORA if changes.pop("lora", True) else LoraConfig()
        return InProcess(cfg := tiny_learner(lora, **changes)).load(Task(path or model_folder(cfg), OPTIM, 10))

    assert fingerprint("", zero_stage=1) == fingerprint("", zero_stage=3)
    assert fingerprint("", zero_stage=1) != fingerprint(teacher, zero_stage=1)
    assert fingerprint("", zero_stage=3) != fingerprint(teacher, zero_stage=3)
    assert fingerprint("", lora=False) == fingerprint(teacher, lora=False)  # all of it is in the checkpoint


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_refreshed_reference_of_a_learner_with_adapters_is_restored_on_the_policys_base(
    tmp_path, teacher: str, zero_stage: int
) -> None:
    grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=2)
    cfg = dataclasses.replace(tiny_learner(LORA, zero_stage=zero_stage), grpo=grpo)
    task = Task(model_folder(cfg), OPTIM, 10, grpo, teacher)  # it starts from another model than the policy

    def kl(backend: InProcess, seed: int) -> float:
        return backend.step(packed(cfg, grpo, scored_groups(8, seed=seed))).metrics["kl"]

    with learners(cfg, task) as backend:
        first = [kl(backend, seed) for seed in range(3)]
        backend.save(tmp_path)
        want = kl(backend, 3)
    with learners(cfg, task) as backend:
        backend.restore(tmp_path)
        assert kl(backend, 3) == want
    assert want < 0.1 * first[0]
    assert bytes_in(tmp_path) < 0.3 * bytes_in(Path(model_folder(cfg)), "*.safetensors")


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_the_base_under_the_adapters_is_the_same_reference_as_a_second_copy(zero_stage: int) -> None:
    cfg = tiny_learner(LORA, zero_stage=zero_stage)

    def kl(refresh: int) -> list[float]:
        grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=refresh)
        run = dataclasses.replace(cfg, grpo=grpo)
        with learners(run, Task(model_folder(run), OPTIM, 10, grpo, model_folder(run))) as backend:
            assert (backend.learner.reference is None) == (refresh == 0)
            return [backend.step(packed(run, grpo, scored_groups(8, seed=s))).metrics["kl"] for s in range(3)]

    base, copy = kl(0), kl(5)
    assert base == pytest.approx(copy, rel=1e-6)
    assert base[0] == pytest.approx(0.0, abs=1e-7)
    assert base[2] > 1e-5


def test_the_reference_of_a_learner_with_adapters_is_refreshed_when_due() -> None:
    grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=2)
    cfg = dataclasses.replace(tiny_learner(LORA), grpo=grpo)
    with learners(cfg, Task(model_folder(cfg), OPTIM, 10, grpo, model_folder(cfg))) as backend:
        kl = [backend.step(packed(cfg, grpo, scored_groups(8, seed=s))).metrics["kl"] for s in range(3)]
    assert kl[1] > 1e-5
    assert kl[2] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"lora": LORA}, {"add_tokens": ("<think>", "</think>")}], ids=["lora", "new_tokens"]
)
def test_a_run_with_adapters_or_new_tokens_and_an_evaluation_loss_goes_through_every_part(
    tiny: RunConfig, changes: dict[str, Any]
) -> None:
    cfg = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, **changes),
        grpo=dataclasses.replace(tiny.grpo, kl_coef=0.01),
        sft=dataclasses.replace(
            tiny.sft,
            epochs=0.5,
            examples_per_step=8,
            data=dataclasses.replace(tiny.sft.data, limit=48),
            eval_data=dataclasses.replace(tiny.evaluation.data, limit=20),
            eval_every=2,
        ),
    )
    run(cfg, RayBackend)
    records = [json.loads(line) for line in (cfg.run_dir / "metrics.jsonl").read_text().splitlines()]
    sft = [r for r in records if r["stage"] == "sft"]
    assert [r["step"] for r in sft] == [0, 1, 2]
    assert ["eval/nll" in r for r in sft] == [False, True, True]
    assert sft[0]["eval/nll_before"] > sft[1]["eval/nll"] > sft[2]["eval/nll"] > 0
    assert [r["epoch"] for r in sft] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    # The sampler got plain, merged weights, new rows too: it agrees with the learner before and after GRPO.
    gaps = [r["gap/mean"] for r in records if r["stage"] == "grpo"]
    assert len(gaps) == 2
    assert all(gap < 1e-4 for gap in gaps), gaps
    exported = cfg.run_dir / "model"
    assert not list(exported.glob("*adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.config.vocab_size >= len(tokenizer)
    if new := tokenizer.convert_tokens_to_ids(list(cfg.model.add_tokens)):
        started = AutoModelForCausalLM.from_pretrained(with_tokens(model_folder(cfg), cfg.model.add_tokens))
        rows_ND, before_ND = (m.get_input_embeddings().weight[new] for m in (model, started))
        assert (rows_ND != before_ND).any(dim=1).all()  # each has been learnt
        assert [tokenizer(token).input_ids for token in cfg.model.add_tokens] == [[token_id] for token_id in new]


# ------------------------------------------------------------------------------------------------ distillation


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model a few steps away from the student."""
    cfg = tiny_learner(LoraConfig())
    folder = tmp_path_factory.mktemp("teacher")
    with learners(cfg, sft_task(cfg)) as backend:
        for seed in range(5):
            backend.step([batch_of(cfg, seed)])
        backend.learner.export(str(folder))
    return str(folder)


def distillation(cfg: RunConfig, teacher: str, kind: str) -> list[float]:
    """The divergence from the teacher before each of six steps on the same examples."""
    task = dataclasses.replace(sft_task(cfg), teacher_path=teacher, distill=DistillConfig(divergence=kind))
    with learners(cfg, task) as backend:
        stats = [backend.step([batch_of(cfg, 0)]) for _ in range(6)]
    assert [s.loss for s in stats] == pytest.approx([s.metrics["divergence"] for s in stats], rel=1e-5)
    return [s.loss for s in stats]


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_student_comes_closer_to_its_teachers_distribution(teacher: str, kind: str) -> None:
    losses = distillation(tiny_learner(LoraConfig()), teacher, kind)
    assert 0 < losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("zero_stage", "layout", "tokens"), [(0, "rows", 80), (3, "packed", 80)])
def test_distillation_is_the_same_under_zero_3_and_packing(teacher: str, zero_stage, layout, tokens) -> None:
    want = distillation(tiny_learner(LoraConfig()), teacher, "forward")
    cfg = tiny_learner(LoraConfig(), zero_stage=zero_stage, layout=layout, micro_batch_tokens=tokens)
    assert distillation(cfg, teacher, "forward") == pytest.approx(want, abs=2e-5)


def with_cached(examples: list[Example], teacher: str) -> list[Example]:
    """The examples with the teacher's logprobs of its whole vocabulary, the likeliest first."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    made = []
    for example in examples:
        with torch.no_grad():
            logprobs_TV = torch.log_softmax(model(torch.tensor([example.token_ids])).logits[0], dim=-1)
        at_N = np.flatnonzero(example.loss_mask_T) - 1
        logprobs_NK, ids_NK = logprobs_TV[at_N].topk(logprobs_TV.shape[1])
        top = TopLogprobs(ids_NK.numpy().astype(np.int32), logprobs_NK.numpy())
        made.append(dataclasses.replace(example, teacher=top))
    return made


@pytest.mark.parametrize(("zero_stage", "layout", "tokens"), [(0, "rows", 80), (3, "packed", 80)])
def test_cached_logprobs_of_the_whole_vocabulary_train_as_the_teacher_does(teacher, zero_stage, layout, tokens) -> None:
    want = distillation(tiny_learner(LoraConfig()), teacher, "forward")
    cfg = tiny_learner(LoraConfig(), zero_stage=zero_stage, layout=layout, micro_batch_tokens=tokens)
    task = dataclasses.replace(sft_task(cfg), distill=DistillConfig(cached=True))
    batch = pack_examples(with_cached(examples(16, 0), teacher), learner=cfg.learner, layout=layout)
    with learners(cfg, task) as backend:
        stats = [backend.step([batch]) for _ in range(6)]
    assert [s.metrics["divergence"] for s in stats] == pytest.approx(want, abs=2e-5)
    assert want[-1] < 0.5 * want[0]


def test_on_policy_distillation_adds_the_teachers_log_ratio_to_each_tokens_advantage(teacher: str) -> None:
    grpo = dataclasses.replace(GRPO, loss="dapo", teacher=teacher, teacher_coef=0.5)
    cfg = dataclasses.replace(tiny_learner(LoraConfig()), grpo=grpo)
    groups = [dataclasses.replace(g, advantages_G=[0.0] * 4) for g in scored_groups(4)]
    with learners(cfg, Task(model_folder(cfg), OPTIM, 10, grpo, teacher_path=teacher)) as backend:
        stats = backend.step(packed(cfg, grpo, groups))
    # On policy the ratio is 1, so the loss is minus the mean advantage: half the mean log ratio.
    assert stats.tokens == sum(len(r.token_ids_T) for g in groups for r in g.group.rollouts_G)
    assert abs(stats.metrics["teacher_kl"]) > 1e-3
    assert stats.loss == pytest.approx(0.5 * stats.metrics["teacher_kl"], rel=1e-4)
    assert stats.grad_norm > 0
