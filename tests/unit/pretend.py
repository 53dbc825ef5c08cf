"""A whole backend in this process, in plain torch: the doctor's unit tests plant their faults in it.

Learner and sampler are two models that share no tensor; weights go from one to the other by name. Nothing is faked in
the numbers: completions are sampled, scored, and trained on with the trainer's own packing and loss.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from launch.doctor.doctor_backend import NodeReport, Reached, SyncedTensors
from launch.doctor.node_probe import NodeProbe
from rl.algorithms.learning_rate import learning_rate
from rl.algorithms.policy_loss import policy_loss
from rl.backend import Arrived, SampleParams, Task
from rl.config import RunConfig
from rl.model.policy import ModelInput, load_policy
from rl.model.pretrained import load_tokenizer
from rl.model.writer import ModelWriter
from rl.scoring.reward_functions import RewardFunctions
from rl.types import (
    AhaError,
    Hardware,
    MicroBatch,
    PackedBatch,
    Queue,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    StepStats,
    SyncReport,
)
from rl.workers.sync.buckets import tensor_checksum

CPU = torch.device("cpu")
torch.set_num_threads(1)  # the model is so small that threads would only wait for one another
HEAD = "lm_head.weight"


class PretendBackend:
    """Implements launch.doctor.doctor_backend.DoctorBackend. Each plant is a fault, off by default.

    stale_head: the head never reaches the sampler. keeps: after the first sync, parameters with this in their name keep
    their values in the sampler. scrambles: after the first sync, such parameters' values get there in another order.
    frozen: no gradient for parameters with this in their name. lost: updates change nothing.
    per_micro_batch: each micro-batch divides by its own tokens. loss_factor: the loss is multiplied by it.
    one_seed: all samples of a group are drawn alike. raw: logprobs from before the temperature.
    other_prompt: the sampler sees a token more. deaf_to_stop: the sampler does not know the end token.
    moved: the share of the weights that an update is said to change.
    forgets: restore leaves the optimiser as it is. moving_reference: the reference is the policy.
    """

    num_ranks, layout, revives = 1, "rows", True

    def __init__(self, cfg: RunConfig, **plants: object) -> None:
        known = dict.fromkeys(("stale_head", "per_micro_batch", "one_seed", "raw", "other_prompt"), False)
        known |= {"moved": 1.0, "keeps": "", "scrambles": "", "lost": False}
        known |= {"deaf_to_stop": False, "forgets": False, "moving_reference": False, "frozen": "", "loss_factor": 1.0}
        assert not set(plants) - set(known)
        self.cfg, self.plants = cfg, known | plants
        self.reward_functions = RewardFunctions(cfg.rewards)
        self.restarts, self.killed, self.version = 0, False, -1
        self.submitted: list[tuple[SampleRequest, SampleParams, Arrived]] = []

    def start(self, model_path: str, context_length: int) -> None:
        config = AutoConfig.from_pretrained(model_path, tie_word_embeddings=False)
        self.sampler = AutoModelForCausalLM.from_config(config)
        self.tokenizer = load_tokenizer(model_path)

    def load(self, task: Task) -> str:
        torch.manual_seed(0)
        self.task = task
        self.policy = load_policy(task.model_path, self.cfg.learner, CPU, dtype=torch.float32)
        self.reference = load_policy(task.model_path, self.cfg.learner, CPU, dtype=torch.float32)
        if self.plants["moving_reference"]:
            self.reference = self.policy
        for name, p in self.policy.named_parameters():
            if self.plants["frozen"] and str(self.plants["frozen"]) in name:
                p.requires_grad_(False)
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
        self.updates = 0
        return "pretend"

    # -------------------------------------------------------------------------------------------- weights

    def _named(self) -> dict[str, Tensor]:
        return {name: p.data for name, p in self.policy.hf.named_parameters(remove_duplicate=False)}

    def sync_weights(self, version: int) -> SyncReport:
        sent = {n: t.clone() for n, t in self._named().items() if not (self.plants["stale_head"] and n == HEAD)}
        self.sampler.load_state_dict(self._taken(sent) if self.version >= 0 else sent, strict=False)
        self.received = {name: tensor_checksum(tensor) for name, tensor in sent.items()}
        self.version = version
        self.sent = SyncReport(version, 0, len(sent), 1, 0, 0.0)
        return self.sent

    def _taken(self, sent: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the sampler makes of an update."""
        keeps, scrambles = str(self.plants["keeps"]), str(self.plants["scrambles"])
        taken = {n: t for n, t in sent.items() if not (keeps and keeps in n)}
        return {n: t.flip(0) if scrambles and scrambles in n else t for n, t in taken.items()}

    def synced_tensors(self) -> list[SyncedTensors]:
        resident = {name: tensor_checksum(p.data) for name, p in self.sampler.named_parameters()}
        return [SyncedTensors({n: tensor_checksum(t) for n, t in self._named().items()}, self.received, resident)]

    def weights_hash(self) -> str:
        return hashlib.sha256(b"".join(t.numpy().tobytes() for t in self._named().values())).hexdigest()

    def master_sums(self) -> dict[str, float]:
        return {name: float(p.detach().double().abs().sum()) for name, p in self.policy.hf.named_parameters()}

    def reference_sums(self) -> dict[str, float]:
        return {name: float(p.detach().double().abs().sum()) for name, p in self.reference.hf.named_parameters()}

    # -------------------------------------------------------------------------------------------- rollouts

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        self.restarts += self.killed
        self.killed = False
        for request in requests:
            yield request.group, self._sample(request, params)

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        self.submitted += [(request, params, arrived) for request in requests]

    def pump(self) -> None:
        request, params, arrived = self.submitted.pop(0)
        arrived(request.group, self._sample(request, params))

    @torch.no_grad()
    def _sample(self, request: SampleRequest, params: SampleParams) -> list[Rollout]:
        seeds = request.seeds_G[:1] * len(request.seeds_G) if self.plants["one_seed"] else request.seeds_G
        dice = [torch.Generator().manual_seed(seed) for seed in seeds]
        ids = torch.tensor([request.prompt_token_ids + [5] * bool(self.plants["other_prompt"])] * len(seeds))
        stops = () if self.plants["deaf_to_stop"] else params.stop_token_ids
        drawn: list[list[int]] = [[] for _ in seeds]
        logprobs: list[list[float]] = [[] for _ in seeds]
        for _ in range(params.max_new_tokens):
            logits = self.sampler(input_ids=ids).logits[:, -1].float()
            if params.only:
                others = torch.ones(logits.shape[1], dtype=torch.bool)
                others[list(params.only)] = False
                logits[:, others] = -torch.inf
            cooled = torch.log_softmax(logits / params.temperature, dim=-1)
            told = torch.log_softmax(logits, dim=-1) if self.plants["raw"] else cooled
            new = torch.stack([torch.multinomial(p, 1, generator=g) for p, g in zip(cooled.exp(), dice, strict=True)])
            for i, token in enumerate(new[:, 0].tolist()):
                if not drawn[i] or drawn[i][-1] not in stops:
                    drawn[i].append(token)
                    logprobs[i].append(float(told[i, token]))
            ids = torch.cat([ids, new], dim=1)
        return [self._rollout(d, p, stops, params, s) for d, p, s in zip(drawn, logprobs, seeds, strict=True)]

    def _rollout(self, ids: list[int], logprobs: list[float], stops: Sequence[int], params: SampleParams, seed: int):  # type: ignore[no-untyped-def]
        ended = ids[-1] in stops
        text = self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
        reason = "stop" if ended else "length"
        as_arrays = np.array(ids, np.int32), np.array(logprobs, np.float32)
        return Rollout(*as_arrays, text, reason, params.temperature, self.version, seed)

    def forget_prompts(self) -> None:
        """It remembers none."""

    def kill_sampler(self, index: int) -> None:
        self.killed = True

    def queue(self) -> Queue:
        return Queue()

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        return lambda: RewardReport(self.reward_functions.call_all(group, names))

    # -------------------------------------------------------------------------------------------- learner

    @torch.no_grad()
    def score(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        return [[self.policy(ModelInput.of(mb, CPU))[0].numpy() for mb in rank] for rank in micro_batches_R]

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        (update,) = updates_U
        gap = self.measure_gap(update.micro_batches_R)
        before = {name: p.detach().clone() for name, p in self.policy.hf.named_parameters()}
        self.optimizer.zero_grad()
        loss = sum(self._backward(mb) for mb in update.micro_batches_R[0])
        trained = [p for p in self.policy.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.task.optim, self.updates, self.task.total_updates)
        self.updates += 1
        if not self.plants["lost"]:
            self.optimizer.step()
        still = [name for name, p in self.policy.hf.named_parameters() if torch.equal(p, before[name])]
        moved = float(str(self.plants["moved"])) if len(still) < len(before) else 0.0
        return StepStats(
            loss, norm, self.optimizer.param_groups[0]["lr"], *gap, updates=1, metrics={"policy/weights_moved": moved},
            tokens=sum(int(mb.loss_mask_T.sum()) for mb in update.micro_batches_R[0]), still=tuple(still),
        )  # fmt: skip

    def train(self, updates_U: Sequence[PackedBatch]) -> Callable[[], StepStats]:
        return lambda: self.step(updates_U)

    def busy(self) -> dict[str, float]:
        return {}

    def measure_gap(self, micro_batches_R: list[list[MicroBatch]]) -> tuple[float, float]:
        """As the learner does, with its limit."""
        pairs = zip(micro_batches_R, self.score(micro_batches_R), strict=True)
        gaps = [
            np.abs(mb.sampler_logprobs_T[mb.loss_mask_T > 0] - scored_M)[fresh(mb)]
            for mine, scored in pairs
            for mb, scored_M in zip(mine, scored, strict=True)
        ]
        gap_M = np.concatenate(gaps)
        if not len(gap_M):
            return float("nan"), float("nan")
        if not gap_M.mean() <= self.cfg.gap_limit:
            raise AhaError(f"sampler and learner disagree: mean |logprob difference| {gap_M.mean():.2e} nats")
        return float(gap_M.mean()), float(gap_M.max())

    def _backward(self, mb: MicroBatch) -> float:
        assert self.task.grpo is not None
        batch = ModelInput.of(mb, CPU)
        if self.plants["per_micro_batch"]:
            mb = replace(mb, loss_weight_T=mb.loss_mask_T / mb.loss_mask_T.sum())
        take = lambda x: torch.from_numpy(x)[batch.index_M]  # noqa: E731
        logprobs_M, entropy_M = self.policy(batch)
        with torch.no_grad():
            ref_M = self.reference(batch)[0]
        sampler_is_old = self.task.grpo.old_logprobs == "sampler"
        loss, _ = policy_loss(
            self.task.grpo, logprobs_T=logprobs_M,
            old_logprobs_T=take(mb.sampler_logprobs_T) if sampler_is_old else logprobs_M.detach(),
            sampler_logprobs_T=take(mb.sampler_logprobs_T), ref_logprobs_T=ref_M, advantages_T=take(mb.advantages_T),
            loss_mask_T=take(mb.loss_mask_T), loss_weight_T=take(mb.loss_weight_T), sequence_T=take(mb.sequence_T),
            entropy_T=entropy_M,
        )  # fmt: skip
        loss = loss * float(self.plants["loss_factor"])  # type: ignore[arg-type]
        loss.backward()
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        state = {"model": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates}
        torch.save(state, folder / "rank_0.pt")

    def restore(self, folder: Path) -> None:
        state = torch.load(folder / "rank_0.pt", weights_only=True)
        self.policy.load_state_dict(state["model"])
        self.updates = state["updates"]
        if not self.plants["forgets"]:
            self.optimizer.load_state_dict(state["optimizer"])

    def export(self, folder: Path) -> None:
        writer = ModelWriter(folder)
        for name, p in self.policy.hf.named_parameters():
            writer.add(name, p.data)
        writer.close(self.policy.hf.config, self.task.model_path)

    def memory(self) -> dict[str, float]:
        return {}

    def publish(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nobody looks."""

    # -------------------------------------------------------------------------------------------- nodes

    def hardware(self) -> Hardware:
        return Hardware(1, {})

    def nodes(self, folder: Path, token: str) -> list[NodeReport]:
        return [NodeProbe("127.0.0.1", ("learner rank 0", "sampler 0"), 2 << 30).report(str(folder.absolute()), token)]

    def ports(self) -> list[Reached]:
        probe = NodeProbe(platform.node() and "127.0.0.1", (), 0)
        return [probe.reach(*probe.listen())]

    def close(self) -> None:
        """Nothing runs."""


def fresh(mb: MicroBatch) -> np.ndarray:
    """Of the masked-in tokens, which were sampled by the weights that are trained."""
    return (
        np.ones(len(mb.loss_mask_T), bool)[mb.loss_mask_T > 0]
        if mb.fresh_T is None
        else mb.fresh_T[mb.loss_mask_T > 0] > 0
    )
