"""Training a reward model: the loss by hand, what is read of a row, packing, a toy set learnt in plain torch, resuming."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from rl.algorithms.learning_rate import learning_rate
from rl.algorithms.reward_loss import margins, reward_loss
from rl.backend import Backend, Task
from rl.config import (
    CheckpointConfig,
    DataConfig,
    LearnerConfig,
    OptimConfig,
    RewardConfig,
    RewardModelConfig,
    RewardTrainConfig,
    RunConfig,
    TrackConfig,
)
from rl.context import Context, Stop
from rl.data.preference_pairs import OPENED, Unit, encode, load_preferences, pack_preferences
from rl.model.classifier import Classifier, load_trainee
from rl.model.policy import ModelInput
from rl.model.pretrained import load_tokenizer
from rl.records.tracker import Tracker
from rl.scoring.reward_model import RewardModel
from rl.scoring.reward_model_text import Encoder, scored_position
from rl.stages.compare import measure
from rl.stages.reward_model import HeldOut, held_out_accuracy, held_out_path, train_reward_model
from rl.types import AhaError, BadInput, MicroBatch, PackedBatch, Prompt, Rollout, RolloutGroup, Row, StepStats, Stopped
from tests.unit.classifiers import llama_causal, llama_classifier

CPU = torch.device("cpu")
LEARNER = LearnerConfig(micro_batch_tokens=400)


class TorchLearners:
    """One rank in this process, in plain torch: what the DeepSpeed learner does, with the trainer's own loss."""

    layout = "rows"

    def __init__(self) -> None:
        self.updates = 0
        self.broken = False

    def load(self, task: Task) -> str:
        self.task = task
        self.model = load_trainee(task.model_path, LEARNER, CPU, dtype=torch.float32, seed=1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.0)
        self.updates = 0
        return "model"

    def step(self, updates_U: list[PackedBatch]) -> StepStats:
        assert self.task.reward is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.task.optim, self.updates, self.task.total_updates)
        self.optimizer.zero_grad()
        loss = 0.0
        for mb in updates_U[0].micro_batches_R[0]:
            batch = ModelInput.of(mb, CPU)
            labels, weight = (torch.from_numpy(x)[batch.index_M] for x in (mb.labels_T, mb.loss_weight_T))
            part, _ = reward_loss(self.task.reward.kind, self.model(batch), labels, weight)
            part.backward()
            loss += float(part.detach())
        self.optimizer.step()
        self.updates += 1
        return StepStats(loss=loss, grad_norm=1.0, learning_rate=1.0)

    @torch.no_grad()
    def scores(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        found = [[self.model(ModelInput.of(mb, CPU)).numpy() for mb in rank] for rank in micro_batches_R]
        return [[s * np.nan for s in rank] for rank in found] if self.broken else found

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates}
        torch.save(state, folder / "rank_0.pt")

    def restore(self, folder: Path) -> None:
        state = torch.load(folder / "rank_0.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    def export(self, folder: Path) -> None:
        self.model.hf.save_pretrained(folder)
        load_tokenizer(self.task.model_path).save_pretrained(folder)


# ------------------------------------------------------------------------------------------------ loss


def test_the_pairwise_loss_by_hand() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 2.0, -1.0, 2.0], requires_grad=True)
    loss, metrics = reward_loss("pairwise", scores, torch.zeros(6), torch.full((6,), 1 / 3))
    assert loss.item() == pytest.approx((0.3132617 + math.log(2) + 3.0485874) / 3, abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    # d/d chosen of -log sigmoid(m) is sigmoid(m) - 1: for the leads 1, 0, -3.
    assert scores.grad[0::2].tolist() == pytest.approx([-0.2689414 / 3, -0.5 / 3, -0.9525741 / 3], abs=1e-6)
    assert scores.grad[1::2].tolist() == pytest.approx((-scores.grad[0::2]).tolist())
    assert {k: float(v) for k, v in metrics.items()} == {"tokens": 3, "accuracy": 1.5, "margin": -2}


def test_the_pointwise_loss_is_binary_cross_entropy() -> None:
    scores, labels = torch.tensor([2.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 0.0])
    loss, metrics = reward_loss("pointwise", scores, labels, torch.full((3,), 1 / 3))
    assert loss.item() == pytest.approx((2.1269280 + 0.1269280 + 0.3132617) / 3, abs=1e-6)
    assert {k: float(v) for k, v in metrics.items()} == {"tokens": 3, "accuracy": 2, "margin": 1}


def test_leads_of_pairs_and_of_labels() -> None:
    assert margins(np.array([2.0, 1.0, 0.0, 3.0]), np.zeros(4), "pairwise").tolist() == [1, -3]
    assert margins(np.array([2.0, 1.0]), np.array([1.0, 0.0]), "pointwise").tolist() == [2, -1]


# ------------------------------------------------------------------------------------------------ rows


def rows_file(path: Path, count: int = 40) -> DataConfig:
    """Pairs that one word tells apart; every other chosen one is the longer."""
    rows = []
    for i in range(count):
        good, bad = f"{'very ' * (i % 2)}good", f"{'very ' * (1 - i % 2)}bad"
        rows.append({"prompt": f"q{i}?", "chosen": good, "rejected": bad})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(source=str(path))


def encoder(tokenizer, thinking: bool = False, limit: int = 64) -> Encoder:  # type: ignore[no-untyped-def]
    return Encoder(tokenizer, limit, thinking=thinking)


def test_the_score_is_read_where_transformers_reads_it() -> None:
    assert [
        scored_position(ids, pad) for ids, pad in (([5, 6, 0], 0), ([5, 6, 0], None), ([5, 0, 6], 0), ([0, 0], 0))
    ] == [1, 2, 2, 0]


def test_a_summary_is_what_follows_the_thinking_also_when_the_prompt_opened_it(tokenizer) -> None:  # type: ignore[no-untyped-def]
    row = {"prompt": "q", "chosen": "why</think>yes", "rejected": "<think>a</think>no", OPENED: True}
    cfg = RewardTrainConfig(scores="summary")
    (unit,) = encode([row], cfg, encoder(tokenizer), 0).units
    assert [tokenizer.decode(s.token_ids[s.token_ids > 2]).strip().split("\n")[-1] for s in unit] == ["yes", "no"]
    endless = encode(
        [{"prompt": "q", "chosen": "why", "rejected": "<think>x", OPENED: True}], cfg, encoder(tokenizer), 0
    )
    assert endless.dropped == {"both responses are the same tokens": 1}


def test_what_cannot_be_read_is_counted_and_what_is_cut_too(tokenizer) -> None:  # type: ignore[no-untyped-def]
    rows = [
        {"prompt": "q" * 90, "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a" * 90, "rejected": "b"},
    ]
    found = encode(rows, RewardTrainConfig(), encoder(tokenizer), 0)
    assert (len(found.units), found.cut) == (1, 1)
    assert found.dropped == {"the question alone fills reward.max_tokens": 1}


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"prompt": "q", "chosen": "a"}, "pairwise", "column 'rejected' is missing"),
        (
            {"prompt": "q", "response": "a", "label": "safe"},
            "pointwise",
            "column 'label' is 'safe', not true, false, 1 or 0",
        ),
        ({"prompt": "q", "response": "a", "label": 2}, "pointwise", "column 'label' is 2, not true"),
    ],
)
def test_a_row_that_lacks_something_is_named(row: dict, kind: str, said: str, tokenizer) -> None:  # type: ignore[no-untyped-def,type-arg]
    with pytest.raises(BadInput, match=said):
        encode([row], RewardTrainConfig(kind=kind), encoder(tokenizer), 0)


def test_a_question_is_on_one_side_only(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [{"prompt": f"q{i % 10}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = RewardTrainConfig(data=DataConfig(source=str(path)), held_out_share=0.2)
    train, held_out = load_preferences(cfg, encoder(tokenizer), 0, seed=1)
    sides = [{row["prompt"] for row in side.rows} for side in (train, held_out)]
    assert [len(side) for side in sides] == [8, 2]
    assert not sides[0] & sides[1]
    again = load_preferences(cfg, encoder(tokenizer), 0, seed=2)[1]
    assert {row["prompt"] for row in again.rows} != sides[1]


# ------------------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_pairs_stay_together_and_the_loss_does_not_depend_on_the_split(tmp_path: Path, layout: str, ranks: int) -> None:
    folder = llama_causal(tmp_path / "model")
    tokenizer = load_tokenizer(str(folder))
    rows = [{"prompt": "q", "chosen": "a" * (1 + i), "rejected": "b" * (5 - i)} for i in range(5)]
    units = encode(rows, RewardTrainConfig(), encoder(tokenizer), 0).units
    learner = LearnerConfig(ranks=ranks, micro_batch_tokens=120, layout=layout)
    model = load_trainee(str(folder), learner, CPU, dtype=torch.float32, seed=1)
    batch = pack_preferences(units, learner=learner, layout=layout)
    assert len({len(rank) for rank in batch.micro_batches_R}) == 1
    total = 0.0
    for mb in (mb for rank in batch.micro_batches_R for mb in rank):
        scored = ModelInput.of(mb, CPU)
        labels, weight = (torch.from_numpy(x)[scored.index_M] for x in (mb.labels_T, mb.loss_weight_T))
        assert labels.tolist() == [1.0, 0.0] * (len(labels) // 2)
        assert not mb.advantages_T.any()
        total += float(reward_loss("pairwise", model(scored), labels, weight)[0])
    assert total == pytest.approx(alone(model, folder, units), abs=1e-5)


def alone(model: Classifier, folder: Path, units: list) -> float:  # type: ignore[type-arg]
    """The mean loss with each response in a forward pass of transformers' own."""
    from transformers import AutoModelForSequenceClassification

    hf = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    hf.load_state_dict(model.hf.state_dict())
    with torch.no_grad():
        scores = [[float(hf(torch.tensor(s.token_ids[None]).long()).logits) for s in unit] for unit in units]
    return sum(math.log1p(math.exp(bad - good)) for good, bad in scores) / len(scores)


def test_a_pair_too_large_for_a_micro_batch_is_refused(tokenizer) -> None:  # type: ignore[no-untyped-def]
    units = encode(
        [{"prompt": "q", "chosen": "a" * 40, "rejected": "b"}], RewardTrainConfig(), encoder(tokenizer), 0
    ).units
    with pytest.raises(BadInput, match=r"raise it, or lower reward\.max_tokens"):
        pack_preferences(units, learner=LearnerConfig(micro_batch_tokens=100), layout="rows")


# ------------------------------------------------------------------------------------------------ models


def test_a_new_head_begins_near_zero_and_a_classifiers_own_stays(tmp_path: Path) -> None:
    new = load_trainee(str(llama_causal(tmp_path / "a")), LEARNER, CPU, dtype=torch.float32, seed=1)
    again = load_trainee(str(tmp_path / "a"), LEARNER, CPU, dtype=torch.float32, seed=1)
    weight = new.hf.get_submodule("score").weight
    assert torch.equal(weight, again.hf.get_submodule("score").weight)
    assert 0.5 < float(weight.std()) * 33**0.5 < 1.5
    own = load_trainee(str(llama_classifier(tmp_path / "b")), LEARNER, CPU, dtype=torch.float32, seed=1)
    assert float(own.hf.get_submodule("score").weight.std()) > 0.3  # its initializer's 0.5, not 1 / sqrt(17)
    assert own.hf.config.architectures == ["LlamaForSequenceClassification"]


# ------------------------------------------------------------------------------------------------ the stage


def context(tmp_path: Path, learners: TorchLearners, stop: Stop | None = None) -> Context:
    cfg = RunConfig(
        out=str(tmp_path), checkpoint=CheckpointConfig(every=2), track=TrackConfig(wandb="off"), learner=LEARNER
    )
    tokenizer = load_tokenizer(str(llama_causal(tmp_path / "model")))
    return Context(
        cfg, cast(Backend, learners), tokenizer, Tracker(cfg.run_dir, cfg.track, name="r"), stop or Stop(), 256
    )


def trained(tmp_path: Path, **settings: object) -> RewardTrainConfig:
    cfg = RewardTrainConfig(
        data=rows_file(tmp_path / "pairs.jsonl"), rows_per_step=16, steps=24, held_out_share=0.25,
        optim=OptimConfig(lr=3e-3),
    )  # fmt: skip
    return replace(cfg, **settings)  # type: ignore[arg-type]


def test_a_separable_set_is_learnt_and_scored_alike_afterwards(tmp_path: Path) -> None:
    learners = TorchLearners()
    ctx = context(tmp_path, learners)
    folder = train_reward_model(ctx, str(tmp_path / "model"), trained(tmp_path))
    before, after = (HeldOut.read(held_out_path(ctx.run_dir, step)) for step in (0, 24))
    assert before.accuracy < 0.9 < after.accuracy
    assert after.loss < before.loss < 1.0
    assert measure("@helpful:accuracy", {"helpful": ctx.run_dir}).value == after.accuracy
    assert measure("@helpful:before/accuracy", {"helpful": ctx.run_dir}).stderr == before.stderr
    with pytest.raises(BadInput, match="not measured; there are accuracy"):
        measure("@helpful:pass@1", {"helpful": ctx.run_dir})
    # What scores it later, in an actor of its own, sees the same tokens and says the same.
    reward = RewardConfig(f"model:{folder}", model=RewardModelConfig(dtype="float32"))
    texts = ["good", "very bad"]
    rollouts = [Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), t, "stop", 1.0, 0, 0) for t in texts]
    report = RewardModel("rm", reward, "cpu", 1).score(RolloutGroup(Prompt(0, 0, [1], "q9?", "", {}), rollouts))
    row = {"prompt": "q9?", "chosen": texts[0], "rejected": texts[1]}
    units = encode([row], trained(tmp_path), encoder(ctx.tokenizer, limit=256), 0).units
    ((scores,),) = learners.scores(pack_preferences(units, learner=LEARNER, layout="rows").micro_batches_R)
    assert [part["rm"].score for part in report.parts_G] == pytest.approx(scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_the_held_out_error_is_over_questions(tmp_path: Path, layout: str) -> None:
    """Of four questions, with 1 to 4 pairs, all pairs of one are right or all are wrong."""
    learners = TorchLearners()
    ctx = context(tmp_path, learners)
    rows: list[Row] = [
        {"prompt": f"q{q}?", "chosen": "good " * (pair + 1), "rejected": "bad " * (4 - pair)}
        for q in range(4) for pair in range(q + 1)
    ]  # fmt: skip
    cfg = trained(tmp_path)
    held_out = encode(rows, cfg, encoder(ctx.tokenizer, limit=256), 0)
    right = {units_tokens(unit): q % 2 for unit, q in zip(held_out.units, [0, 1, 1, 2, 2, 2, 3, 3, 3, 3], strict=True)}

    def scores(micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        found = []
        for mb in micro_batches_R[0]:
            texts = [tuple(t.tolist()) for t in np.split(mb.token_ids_T, np.cumsum(mb.lengths_S)[:-1])]
            pairs = list(zip(texts[0::2], texts[1::2], strict=True))
            found.append(np.array([x for pair in pairs for x in ((1.0, 0.0) if right[pair] else (0.0, 1.0))]))
        return [found]

    learners.scores = scores  # type: ignore[method-assign]
    learners.layout = layout
    result = held_out_accuracy(ctx, held_out, cfg)
    assert (result.accuracy, result.rows) == (0.5, 10)
    assert result.stderr == pytest.approx(np.std([0, 1, 0, 1], ddof=1) / 2)


def units_tokens(unit: Unit) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(scored.token_ids.tolist()) for scored in unit)


def test_a_run_that_was_stopped_ends_like_one_left_alone(tmp_path: Path) -> None:
    cfg = trained(tmp_path, steps=5)
    left = context(tmp_path / "a", TorchLearners())
    alone = train_reward_model(left, str(tmp_path / "a" / "model"), cfg)
    stop = Stop()
    learners = TorchLearners()
    ctx = context(tmp_path / "b", learners, stop)
    real = learners.step

    def step(updates_U: list[PackedBatch]) -> StepStats:
        stop.requested = learners.updates == 2
        return real(updates_U)

    learners.step = step  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="after reward step 3 of 5"):
        train_reward_model(ctx, str(tmp_path / "b" / "model"), cfg)
    ctx.tracker.close()
    again = context(tmp_path / "b", TorchLearners())
    resumed = train_reward_model(again, str(tmp_path / "b" / "model"), cfg)
    assert (resumed / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    records = [json.loads(line) for line in (again.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [
        ("eval", 0), *(("reward", i) for i in range(5)), ("eval", 5)
    ]  # fmt: skip
    assert HeldOut.read(held_out_path(again.run_dir, 5)) == HeldOut.read(held_out_path(left.run_dir, 5))


def test_a_score_that_is_not_finite_stops_the_stage(tmp_path: Path) -> None:
    learners = TorchLearners()
    learners.broken = True
    with pytest.raises(AhaError, match="held-out score of the reward model is not finite"):
        train_reward_model(context(tmp_path, learners), str(tmp_path / "model"), trained(tmp_path))
