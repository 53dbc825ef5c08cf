"""`aha plan --published`: predictions beside figures that others published, or that were measured here.

A published run is described by a RunConfig and the lengths of its rollouts. What its source does not say is assumed,
and the assumption is printed. Nothing here is fitted to a row, unless the row says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from launch.plan.hardware import Hardware, find_hardware, this_machine
from launch.plan.memory import LearnerShape, learner_memory
from launch.plan.model import Architecture, find_architecture
from launch.plan.plan import Plan, plan_run
from launch.plan.rollouts import Lengths, make_decoder, simulate
from launch.plan.show import console
from rl.config import (
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    SFTConfig,
)

HOURS = 3600.0
TWO_CORES = 2


@dataclass(frozen=True)
class Row:
    """One figure. source: where it was published. assumed: what the source does not say."""

    run: str
    figure: str
    published: float
    predicted: float
    source: str
    assumed: str

    @property
    def ratio(self) -> float:
        return self.predicted / self.published


def grpo_config(
    model: str, *, prompts: int, group: int, updates: int, steps: int, limit: int, ranks: int, samplers: int,
    tensor_parallel: int = 1, kl: float = 0.0, micro_batch_tokens: int = 32768, zero_stage: int = 3,
    max_sequences: int = 256, eager: bool = False, weight_transfer: str = "ipc", dtype: str = "bfloat16",
) -> RunConfig:  # fmt: skip
    """A GRPO run. Published runs mostly sample and train on the same GPUs in turn: weight_transfer=ipc."""
    base = RunConfig()
    return replace(
        base,
        model=ModelConfig(path=model, dtype=dtype),
        rewards=(RewardConfig("accuracy"),),
        rollout=RolloutConfig(max_new_tokens=limit),
        sft=SFTConfig(steps=0),
        grpo=GRPOConfig(steps=steps, prompts_per_step=prompts, group_size=group, updates_per_step=updates, kl_coef=kl),
        evaluation=EvalConfig(),
        learner=LearnerConfig(
            ranks=ranks, zero_stage=zero_stage, micro_batch_tokens=max(micro_batch_tokens, limit + 512),
            gradient_checkpointing=True,
        ),
        sampler=SamplerConfig(
            count=samplers, tensor_parallel=tensor_parallel, max_sequences=max_sequences, enforce_eager=eager,
            gpu_memory_share=0.9,  # what others keep beside their sampler is not known
        ),
        cluster=replace(base.cluster, weight_transfer=weight_transfer),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ published runs


def r1_zero() -> Row:
    """64 x 8 H800, about 198 h: 10,400 updates, 16 for each rollout batch of 512 questions x 16."""
    hours = wire = 0.0
    for rollouts, limit, median in ((513, 32768, 5500.0), (137, 65536, 13000.0)):
        cfg = grpo_config(
            "deepseek-ai/DeepSeek-V3-Base", prompts=512, group=16, updates=16, steps=rollouts, limit=limit, ranks=512,
            samplers=16, tensor_parallel=32, kl=0.001, max_sequences=512,
        )  # fmt: skip
        plan = _plan(cfg, "H800-80G", nodes=64, lengths=Lengths(median, 0.7, limit, 150))
        assert plan.step is not None
        hours += plan.cost.seconds / HOURS
        wire += rollouts * plan.step.update.communication_s / HOURS
    return Row(
        "R1-Zero, 671 billion parameters (37 active), 512 H800", "hours", 198, hours, "R1_FACTS 2.3, 2.10",
        "lengths grow to a median of 5,500, and 13,000 in the last fifth (only 'hundreds to thousands' is published); "
        f"16 samplers of 32 GPUs; our ZeRO-3 instead of their pipeline and expert parallelism ({wire:,.0f} h are its "
        "communication); self-speculative decoding and fp8 are not modelled",
    )  # fmt: skip


def deepscaler() -> Row:
    """R1-Distill-1.5B, about 1,750 steps of 128 prompts, 8 then 16 samples, limit 8K, 16K, 24K: 3,800 A100-hours."""
    hours = 0.0
    for steps, group, limit, median, gpus in ((1040, 8, 8192, 2600.0, 8), (480, 16, 16384, 3200.0, 32),
                                              (230, 16, 24576, 3400.0, 32)):  # fmt: skip
        cfg = grpo_config(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", prompts=128, group=group, updates=1, steps=steps, limit=limit,
            ranks=gpus, samplers=gpus, kl=0.001,
        )  # fmt: skip
        plan = _plan(cfg, "A100-80G", nodes=gpus // 8, lengths=Lengths(median, 0.75, limit, 120))
        hours += plan.cost.device_hours
    return Row(
        "DeepScaleR, 1.5 billion, A100",
        "GPU-hours",
        3800,
        hours,
        "R1_FACTS 4",
        "1,040 + 480 + 230 steps on 8, 32 and 32 A100-80G; median completions of 2,600, 3,200 and 3,400 tokens",
    )


def mini_r1() -> Row:
    """Qwen2.5-3B-Instruct GRPO on countdown, 4 H100, about 6 h; 450 steps."""
    cfg = grpo_config(
        "Qwen/Qwen2.5-3B-Instruct", prompts=3, group=8, updates=1, steps=450, limit=1024, ranks=3, samplers=1, kl=0.001,
        weight_transfer="auto", micro_batch_tokens=4096,
    )  # fmt: skip
    plan = _plan(cfg, "H100-80G", nodes=1, lengths=Lengths(250, 0.5, 1024, 160))
    return Row(
        "Mini-R1, 3 billion, 4 H100, 450 steps",
        "hours",
        6,
        plan.cost.seconds / HOURS,
        "R1_FACTS 4 (secondary)",
        "3 prompts x 8 samples a step (three learner GPUs, one sampler), completions of a median of 250 tokens; what "
        "its trainer spends beside computing is not modelled",
    )


def sky_t1() -> Row:
    """Qwen2.5-32B-Instruct, 17,000 traces, 3 epochs, batch 96: 19 h on 8 H100."""
    steps = 17_000 * 3 // 96
    cfg = replace(
        grpo_config("Qwen/Qwen2.5-32B-Instruct", prompts=1, group=2, updates=1, steps=0, limit=1, ranks=8, samplers=1),
        sft=SFTConfig(steps=steps, examples_per_step=96),
    )
    plan = _plan(cfg, "H100-80G", nodes=1, lengths=Lengths(1, 0.1, 1, 1), sft_tokens=4500)
    return Row(
        "Sky-T1, SFT of 32 billion, 8 H100",
        "hours",
        19,
        plan.cost.seconds / HOURS,
        "R1_FACTS 4",
        "traces of 4,500 tokens on average; nothing offloaded to the host",
    )


def s1() -> Row:
    """Qwen2.5-32B-Instruct, 1,000 traces: 26 min on 16 H100; 5 epochs and batch 16 are unverified."""
    cfg = replace(
        grpo_config("Qwen/Qwen2.5-32B-Instruct", prompts=1, group=2, updates=1, steps=0, limit=1, ranks=16, samplers=1),
        sft=SFTConfig(steps=1000 * 5 // 16, examples_per_step=16),
    )
    plan = _plan(cfg, "H100-80G", nodes=2, lengths=Lengths(1, 0.1, 1, 1), sft_tokens=4700)
    return Row(
        "s1, SFT of 32 billion, 16 H100",
        "minutes",
        26,
        plan.cost.seconds / 60,
        "R1_FACTS 4",
        "5 epochs, batch 16 (both unverified), traces of 4,700 tokens on average",
    )


# ------------------------------------------------------------------------------------------------ measured here


def two_cores() -> Hardware:
    """The development machine: two cores at the table's rates, on whatever machine this runs."""
    machine = this_machine()
    scale = TWO_CORES / machine.cores
    return replace(
        machine,
        name="two cores",
        cores=TWO_CORES,
        bf16=machine.bf16 * scale,
        fp32=machine.fp32 * scale,
        memory_gib=23.0,
    )


def decode_rate(model: str, sequences: int, source: str) -> Row:
    """Tokens a second of vLLM on two cores, all sequences of 128 tokens."""
    hw, arch = two_cores(), find_architecture(model)
    decoder = make_decoder(arch, "bfloat16", hw, tensor_parallel=1, eager=True, seeded=False)
    time = simulate(
        decoder, np.full(sequences, 128), prompt=32, group=1, samplers=1, slots=sequences, shared_prefix=False
    )
    return Row(
        f"vLLM, {model.rsplit('/')[-1]}, {sequences} sequences, two cores", "tokens/s",
        {16: 361, 64: 520}[sequences], time.tokens_per_s, source,
        "32 prompt and 128 new tokens each",
    )  # fmt: skip


def own_step() -> list[Row]:
    """SmolLM2-135M, 32 prompts x 8 samples of up to 128 tokens on two cores: tests/bench/README.md."""
    cfg = grpo_config(
        "HuggingFaceTB/SmolLM2-135M-Instruct", prompts=32, group=8, updates=1, steps=1, limit=128, ranks=1, samplers=1,
        zero_stage=1, micro_batch_tokens=4096, weight_transfer="auto",
    )  # fmt: skip
    cfg = replace(cfg, learner=replace(cfg.learner, gradient_checkpointing=False, micro_batch_tokens=4096))
    plan = plan_run(cfg, two_cores(), lengths=Lengths(400, 0.7, 128, 90))
    assert plan.step is not None
    assumed = "nearly all completions run to the limit, prompts of 90 tokens"
    name = "GRPO step of SmolLM2-135M, two cores"
    return [
        Row(
            f"{name}: rollout",
            "s",
            102,
            plan.step.rollout.seconds,
            "tests/bench/README.md; sampling was fitted to it",
            assumed,
        ),
        Row(f"{name}: update", "s", 189, plan.step.update.seconds, "tests/bench/README.md", assumed),
    ]


def plain_adamw(dtype: str, published: float) -> Row:
    """Peak of one AdamW step of SmolLM2 on 16 x 128 tokens in one process."""
    arch = find_architecture("HuggingFaceTB/SmolLM2-135M-Instruct")
    shape = LearnerShape(dtype, 1, 1, 16 * 128, 16 * 127, 1024, checkpointing=False, reference=False, packed=False)
    return Row(
        f"AdamW step of SmolLM2-135M, {dtype}, 16 x 128 tokens, two cores", "GB", published,
        learner_memory(arch, shape, two_cores()).peak / 1e9, "FIELD_NOTES",
        "that was plain PyTorch with all logits at once; predicted is Aha's learner: chunked logits, float32 master "
        "weights and gradients",
    )  # fmt: skip


def small_decode() -> Row:
    """A Llama of 3 million parameters (tests/bench/prepare.py) at 256 sequences."""
    arch = Architecture("3M", "tests/bench/prepare.py", "llama", 192, 512, 6, 3, 3, 64, 2048, tied=True)
    decoder = make_decoder(arch, "bfloat16", two_cores(), tensor_parallel=1, eager=True, seeded=False)
    time = simulate(decoder, np.full(256, 128), prompt=32, group=1, samplers=1, slots=256, shared_prefix=False)
    return Row(
        "vLLM, 3 million parameters, 256 sequences, two cores", "tokens/s", 14_000, time.tokens_per_s,
        "FIELD_NOTES; fixed time a sequence was fitted to it", "32 prompt and 128 new tokens each; the model's shape",
    )  # fmt: skip


def _plan(cfg: RunConfig, gpu: str, *, nodes: int, lengths: Lengths, sft_tokens: float = 0.0) -> Plan:
    hw = find_hardware(gpu, nodes=nodes, gpus_per_node=8)
    return plan_run(cfg, hw, lengths=lengths, sft_tokens=sft_tokens)


def rows() -> list[Row]:
    runs: list[Callable[[], Row]] = [r1_zero, deepscaler, mini_r1, sky_t1, s1]
    notes = "FIELD_NOTES; the decoder's compute share was fitted to these two"
    rates = [decode_rate("HuggingFaceTB/SmolLM2-135M-Instruct", n, notes) for n in (16, 64)]
    memory = [plain_adamw("float32", 7.1), plain_adamw("bfloat16", 5.0)]
    return [*(run() for run in runs), *rates, small_decode(), *own_step(), *memory]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_published() -> None:
    out = console()
    out.print("Published or measured, and what aha plan says (ratio: predicted / published):\n", soft_wrap=True)
    for row in rows():
        out.print(
            f"{row.run}\n    {row.figure}: {_number(row.published)} published, {_number(row.predicted)} predicted, "
            f"ratio {row.ratio:.2f}   [{row.source}]\n    assumed: {row.assumed}",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
