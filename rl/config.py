"""Every setting, defined once, in a tree of frozen dataclasses. Loads no torch.

Batch arithmetic, in words (printed at the start of each run):
    prompts_per_step x group_size = rollouts per step;
    rollouts per step / updates_per_step = rollouts per optimiser update;
    each update is cut into micro-batches of at most micro_batch_tokens tokens, spread evenly over the learner ranks.

A recipe is a function that returns a RunConfig. Overrides are dotted: "grpo.group_size=16".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def knob(  # type: ignore[no-untyped-def]
    default: object,
    help: str,
    *,
    lo: float | None = None,
    hi: float | None = None,
    choices: Sequence[str] = (),
    keyed: bool = True,
    before: object = None,
    in_key: Callable[[Any], str] = str,
):
    """A setting: its default, a sentence that explains it with its unit, and its range (both ends allowed).

    The other arguments say how the setting enters a stage's key (rl/workflow/stage_keys.py). A stage whose key changes
    runs again, so a key must not change without need.
    keyed: False for a setting that does not affect what the stage produces. It is left out of the key.
    before: the value with which a stage does what it did before the setting existed. It is left out of the key.
    in_key: how the key writes the value.
    """
    metadata: dict[str, object] = {"help": help, "lo": lo, "hi": hi, "choices": tuple(choices)}
    metadata |= {"keyed": keyed, "before": before, "in_key": in_key}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def without_point(value: float) -> str:
    """2.0 -> "2", but 0.0 -> "0.0": the keys of folders that exist were made from epochs written so."""
    return str(value).removesuffix(".0") if value else str(value)


def asked_day(value: str) -> str:
    """ "auto 2026-11-29" -> "auto": which day it became changes no key."""
    return value.partition(" ")[0]


def share_in_key(value: float) -> str:
    """0 -> "0.9", the default when folders' keys were first written; others as they are."""
    return str(value or 0.9)


def denominator_in_key(value: str) -> str:
    """auto -> "learner", the default when folders' keys were first written; what is set has a key of its own."""
    return {"auto": "learner", "learner": "always the learner"}.get(value, value)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on frozen weights. Exports merge them, and syncs by cluster.lora_sync."""

    rank: int = knob(0, "Rank of the adapters; 0 trains all weights.", lo=0)
    alpha: float = knob(32.0, "An adapter's product is multiplied by alpha / rank.", lo=0)
    targets: tuple[str, ...] = knob(
        ("all-linear",),
        "Names of the linear layers with adapters; all-linear: all but the head, and no experts.",
    )


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained."""

    path: str = knob("", "Hugging Face id or folder of a causal LM.")
    dtype: str = knob(
        "auto", "Compute precision of learner and sampler. auto: bfloat16 on GPUs and on CPUs with a unit for it, else "
         "float32; a run that is resumed keeps its precision. float16: only on GPUs. float32 on GPUs: vLLM's "
         "attention may multiply in TF32, so the sampler is less exact than the learner.",
        choices=("auto", "bfloat16", "float16", "float32"),
    )  # fmt: skip
    context_length: int = knob(0, "Longest prompt and completion together, tokens; 0: the model's own limit.", lo=0)
    add_tokens: tuple[str, ...] = knob(
        (), "Tokens to add, for example <think>; not with LoRA. Their embeddings start as the mean of all others."
    )
    lora: LoraConfig = knob(LoraConfig, "Low-rank adapters.")
    chat_date: str = knob(
        "auto", "Day that a chat template with a clock shows, like 2026-11-29. auto: the day on which the run was "
        "begun, which it keeps.", before="auto", in_key=asked_day,
    )  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """Where prompts or examples come from and how they are presented to the model."""

    source: str = knob("", "Hub id, a .jsonl/.json/.parquet/.csv file, or a task in Python as 'module:function'.")
    subset: str = knob("", "Name of the dataset's configuration on the Hub.")
    split: str = knob("train", "Name of the dataset's split on the Hub.")
    prompt_field: str = knob("prompt", "Column with the question.")
    answer_field: str = knob("answer", "Column with the reference answer; empty: the rows have none.")
    answer_after: str = knob("", "The answer is what follows the last of this mark, as '####' in GSM8K; empty: all.")
    target_field: str = knob("target", "SFT only: column with the text to learn.")
    messages_field: str = knob(
        "", "SFT only: column with conversations (lists of role and content) to learn instead; needs template=chat."
    )
    text_field: str = knob("", "SFT only: column with documents to learn instead, every token, with no template.")
    template: str = knob("r1_zero", "Prompt template: r1_zero, chat, plain, or a text with {prompt} in it.")
    system: str = knob("", "System message of the chat template.")
    limit: int = knob(0, "Use only the first rows of the source; 0 takes all.", lo=0)
    shuffle: bool = knob(True, "Shuffle the rows anew in each epoch, by the seed; false: keep the source's order.")
    unjudgeable: str = knob(
        "error", "Rows whose reference answer no reward can judge by: stop and name them (error), or drop them.",
        choices=("error", "drop"),
    )  # fmt: skip
    long_prompts: str = knob(
        "error", "Prompts that leave no room for a completion: stop at the first (error), or drop and count them.",
        choices=("error", "drop"), before="error",
    )  # fmt: skip


MODEL = "model:"
"""A reward whose function begins with this is a reward model, not a function."""


@dataclass(frozen=True)
class RewardModelConfig:
    """How a reward model runs: a sequence classifier with one logit, chosen by function=model:FOLDER_OR_HUB_ID."""

    scores: str = knob(
        "response", "What it reads: the whole response (R1: safety) or what follows the thinking (R1: helpfulness).",
        choices=("response", "summary"),
    )  # fmt: skip
    output: str = knob("logit", "The score: the logit, or its sigmoid (0 to 1).", choices=("logit", "sigmoid"))
    steps: tuple[str, ...] = knob(
        (), "Texts that end a step, for a process reward model: the score is that of the steps, from 0 to 1.", before=()
    )
    aggregate: str = knob(
        "last", "With steps: a response has the score of its last step, the smallest, or the mean.",
        choices=("last", "min", "mean"), before="last",
    )  # fmt: skip
    dtype: str = knob("bfloat16", "Compute precision.", choices=("bfloat16", "float32"))
    max_tokens: int = knob(
        0, "Longest question and response, tokens; longer ones lose their end and are counted; 0: as the model.", lo=0
    )
    batch_tokens: int = knob(16384, "Most tokens in one forward pass, padding included.", lo=1)
    device: str = knob("auto", "What it runs on; auto: the same as the other workers.", choices=("auto", "cpu", "gpu"))
    gpus: float = knob(1.0, "GPUs reserved for it; with a fraction it shares a GPU.", lo=0.01, hi=1)


@dataclass(frozen=True)
class RewardConfig:
    """One part of the reward, and the rows and steps to which it applies."""

    function: str = knob(
        "",
        "A reward of rewards/ by name (accuracy), 'module:function', or 'model:' and a folder, Hub id or @stage.",
    )
    weight: float = knob(1.0, "The score is multiplied by this before the parts are added (R1, V2 eq. 4: equal).")
    options: tuple[str, ...] = knob(
        (), "The function's arguments as name=value, each of its parameter's type, for example percent=lenient."
    )
    timeout_s: float = knob(
        0.0,
        "Time limit of a sample, seconds; a longer call is killed and counted; 0: 10, more for code and LLM judges.",
        lo=0,
    )
    name: str = knob("", "Name of this part in metrics and files; empty: the function's or the model's name.")
    domains: tuple[str, ...] = knob((), "Only rows of these domains get this reward; empty: all rows do.")
    domain_field: str = knob("domain", "Column that holds a row's domain.")
    from_step: int = knob(
        0, "First GRPO step that counts it; -25: the last 25 steps (R1: preferences, last 400 of 1,700 updates)."
    )
    model: RewardModelConfig = knob(RewardModelConfig, "How the reward model runs, for function=model:...")


@dataclass(frozen=True)
class ScoringConfig:
    """Where rewards run: in processes that are killed when a sample takes too long."""

    workers: int = knob(0, "Ray actors that run rewards; 0: one on each node of the cluster.", lo=0)
    processes: int = knob(
        0, "Most processes of a worker, with one reward call at a time each; 0: two for each core of its node.", lo=0
    )
    memory_gib: float = knob(8.0, "Address space of each process, GiB; a sample that needs more fails.", lo=0.5)
    max_unjudged_share: float = knob(
        0.5,
        "Stop when a reward has no verdict (timed out or failed) on a larger share of a step's samples.",
        lo=0,
        hi=1,
    )


@dataclass(frozen=True)
class EnvironmentConfig:
    """What answers the model between its turns: a class, tools, or both; and the rows that it is for."""

    function: str = knob("", "A class as 'module:Class'; empty: the tools alone.")
    tools: tuple[str, ...] = knob((), "Functions as 'module:function' that the model may call, beside the class's own.")
    options: tuple[str, ...] = knob(
        (), "Arguments of the class as name=value, each of its parameter's type, for example guesses=7."
    )
    call: str = knob(
        "tools", "How the model calls a tool. tools: <tool_call> with JSON inside; the chat template shows the tools. "
        "fence: a closed block ```NAME, for base models. text: never; each turn goes to the class's reply().",
        choices=("tools", "fence", "text"),
    )  # fmt: skip
    max_turns: int = knob(8, "Most turns of the model in one trajectory.", lo=1, hi=1000)
    max_reply_tokens: int = knob(512, "Longest answer to one turn, tokens; a longer one is cut in its middle.", lo=8)
    timeout_s: float = knob(
        30.0, "Time limit of one turn, seconds; then the process is killed, and the sample is left out and counted.",
        lo=0.01,
    )  # fmt: skip
    frame: str = knob(
        "", "What is written around an answer where template is not chat; {reply} is the answer. Empty: a line of its "
        "own, and with call=fence a block ```output.",
    )  # fmt: skip
    weight: float = knob(1.0, "What get_reward says is multiplied by this and added to the other rewards.")
    domains: tuple[str, ...] = knob((), "Only rows of these domains have this environment; empty: all rows do.")
    domain_field: str = knob("domain", "Column that holds a row's domain.")

    @property
    def name(self) -> str:
        """For messages: the class's name, or those of the tools."""
        return (self.function or "+".join(self.tools)).replace(":", ".") or "environment"


@dataclass(frozen=True)
class RolloutConfig:
    """How completions are sampled for training."""

    temperature: float = knob(1.0, "Sampling temperature (R1: 1; 0.7 in its last stage).", lo=0.01, hi=5)
    top_p: float = knob(
        1.0, "Probability mass of nucleus sampling; below 1, sampler and learner differ in logprobs.", lo=0.01, hi=1
    )
    max_new_tokens: int = knob(256, "Longest completion, tokens.", lo=1)
    stop: tuple[str, ...] = knob((), "Texts that end a completion, in addition to the end token.")
    staleness: int = knob(
        0, "How many steps older than the policy that they train rollouts may be. 0: sampling and training take turns. "
        "1: the next batch is sampled while this one trains. More: see in_flight.", lo=0, hi=64,
    )  # fmt: skip
    in_flight: bool = knob(
        False, "With staleness: weights change while samples are being drawn, and nobody waits for the longest one; "
        "runs cannot be repeated bit for bit. false: each batch is sampled whole by one version, and they can.",
        before=False,
    )  # fmt: skip
    cache: str = knob(
        "recompute", "With in_flight, keys and values of the samples that new weights find half drawn: recompute them, "
        "or keep the old ones, which saves time where contexts are long.",
        choices=("recompute", "keep"), before="recompute",
    )  # fmt: skip

    @property
    def mode(self) -> str:
        """How sampling and training go together: synchronous, overlapped or asynchronous."""
        return "synchronous" if not self.staleness else "asynchronous" if self.in_flight else "overlapped"

    @property
    def running_at_sync(self) -> str:
        """What becomes of samples that new weights find half drawn: refuse, recompute or keep."""
        return self.cache if self.in_flight else "refuse"


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule. R1 discloses only learning rates; other defaults are PyTorch's or name their source."""

    lr: float = knob(1e-6, "Peak learning rate (R1-Zero: 3e-6).", lo=0, hi=1)
    schedule: str = knob("constant", "Learning rate after the warm-up.", choices=("constant", "linear", "cosine"))
    final_lr_share: float = knob(0.1, "Share of the peak at which linear and cosine end (R1's SFT: 0.1).", lo=0, hi=1)
    warmup_steps: int = knob(0, "Length of the linear warm-up, optimiser updates.", lo=0)
    beta1: float = knob(0.9, "AdamW's decay of the first moment.", lo=0, hi=0.9999)
    beta2: float = knob(0.999, "AdamW's decay of the second moment.", lo=0, hi=0.99999)
    eps: float = knob(1e-8, "AdamW's epsilon.", lo=0, hi=1)
    weight_decay: float = knob(0.0, "AdamW's decoupled weight decay.", lo=0, hi=1)
    max_grad_norm: float = knob(1.0, "Gradients are clipped to this global norm; 0: not clipped.", lo=0)


DIVERGENCES = ("forward", "reverse", "jsd")
LOSSES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo")
ADVANTAGES = ("group_std", "group_mean", "batch_std", "leave_one_out", "per_reward")
KL_ESTIMATORS = ("k1", "k2", "k3", "k3_unbiased", "k1_in_reward")
CORRECTIONS = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@dataclass(frozen=True)
class GRPOConfig:
    """The GRPO stage. Formulas: rl/algorithms/advantage.py and rl/algorithms/policy_loss.py."""

    steps: int = knob(100, "Rollout steps.", lo=0)
    prompts_per_step: int = knob(32, "Prompts (questions) sampled in a step (R1: 32 per update).", lo=1)
    group_size: int = knob(16, "Samples per prompt (R1: 16).", lo=1)
    updates_per_step: int = knob(1, "Optimiser updates per rollout batch (R1: 16 on 8,192 rollouts).", lo=1)
    loss: str = knob("grpo", "Policy loss.", choices=LOSSES)
    clip_low: float = knob(0.2, "Ratios below 1 - this are clipped (PPO's 0.2; R1-Zero's is undisclosed).", lo=0)
    clip_high: float = knob(0.2, "Ratios above 1 + this are clipped (DAPO 0.28; R1's first RL stage 10).", lo=0)
    dual_clip: float = knob(0.0, "Largest ratio with a negative advantage (dual clip), above 1; 0: no bound.", lo=0)
    advantage: str = knob("group_std", "How rewards become advantages (R1: group_std).", choices=ADVANTAGES)
    std_eps: float = knob(1e-4, "Added to the standard deviation that divides (TRL: 1e-4).", lo=0)
    uniform_groups: str = knob(
        "keep",
        "Groups whose rewards are all equal: keep (they count in the denominator), drop, or refill (DAPO).",
        choices=("keep", "drop", "refill"),
    )
    uniform_by: str = knob("", "Reward by which a group is uniform (DAPO: accuracy); empty: their sum.", before="")
    max_refills: int = knob(4, "With refill: most extra rounds of sampling in a step.", lo=0)
    kl_coef: float = knob(0.001, "Weight of the KL from the reference (R1: 0.001); 0: no reference is loaded.", lo=0)
    kl_estimator: str = knob("k3", "KL estimator (R1 and DeepSeekMath: k3 in the loss).", choices=KL_ESTIMATORS)
    ref_refresh_steps: int = knob(400, "Updates until the policy becomes the reference (R1: 400); 0: never.", lo=0)
    teacher: str = knob("", "On-policy distillation: Hub id, folder or @stage of a teacher with the same tokenizer.")
    teacher_coef: float = knob(1.0, "Weight of (log teacher - log policy) in each token's advantage.", lo=0)
    old_logprobs: str = knob(
        "auto", "Whose logprobs are the ratio's denominator; auto: the learner's or, where rollouts may be of older "
        "weights (rollout.staleness), the sampler's, so that the clip bounds how far the policy has moved since.",
        choices=("auto", "learner", "sampler"), in_key=denominator_in_key,
    )  # fmt: skip
    importance: str = knob("token_truncate", "Correction of the sampler-learner gap (TIS).", choices=CORRECTIONS)
    importance_cap: float = knob(2.0, "Largest importance weight (TIS; verl's threshold is 2).", lo=1)
    overlong: str = knob("keep", "Truncated rollouts: keep or mask (as DAPO does).", choices=("keep", "mask"))
    max_logprob_gap: float = knob(
        0.0, "Stop when the mean |sampler's - learner's logprob| exceeds it, nats; 0: 1e-3 float32, else 0.05.", lo=0
    )
    optim: OptimConfig = knob(OptimConfig, "Optimiser of this stage.")

    @property
    def rollouts_per_step(self) -> int:
        return self.prompts_per_step * self.group_size

    @property
    def total_updates(self) -> int:
        return self.steps * self.updates_per_step


@dataclass(frozen=True)
class DistillConfig:
    """Distillation on the examples: learning a teacher's distribution. Formulas: rl/algorithms/distill.py."""

    teacher: str = knob("", "Hub id, folder or @stage of a frozen teacher with the same tokenizer; empty: none.")
    divergence: str = knob(
        "forward", "Divergence from the teacher: forward KL, reverse KL, or Jensen-Shannon.", choices=DIVERGENCES
    )
    cached: bool = knob(
        False,
        "Learn from the teacher's top logprobs that the rows hold (rl/data/teacher_logprobs.py), with no teacher "
        "loaded; for divergence=forward only.",
        before=False,
    )
    jsd_beta: float = knob(0.5, "With jsd: the teacher's share in the mixture (GKD).", lo=0.01, hi=0.99)
    nll_coef: float = knob(0.0, "Weight of the examples' negative log-likelihood, added to the divergence.", lo=0)


@dataclass(frozen=True)
class SFTConfig:
    """The SFT stage. It is left out when steps and epochs are both 0."""

    steps: int = knob(0, "Optimiser updates.", lo=0)
    epochs: float = knob(0.0, "Passes over the examples, instead of steps (R1: 2 to 3).", lo=0, in_key=without_point)
    examples_per_step: int = knob(32, "Examples in one update (R1: 128).", lo=1)
    data: DataConfig = knob(DataConfig, "The examples.")
    distill: DistillConfig = knob(DistillConfig, "Learning a teacher's distribution instead of the tokens.")
    eval_data: DataConfig = knob(DataConfig, "Held-out examples for the evaluation loss; no source: none.")
    eval_every: int = knob(0, "Updates between measurements of the evaluation loss; 0: only before and after.", lo=0)
    overlong: str = knob(
        "error", "Examples longer than the context: stop (error), or drop and count them.", choices=("error", "drop")
    )
    optim: OptimConfig = knob(lambda: OptimConfig(lr=5e-5, schedule="cosine"), "Optimiser of this stage (R1: 5e-5).")

    @property
    def enabled(self) -> bool:
        return self.steps > 0 or self.epochs > 0

    def total_steps(self, rows: int) -> int:
        """Updates over this many examples: 2 epochs of 10 rows, 8 a step -> 3 (20 / 8, rounded up)."""
        return self.steps or math.ceil(self.epochs * rows / self.examples_per_step)


SEARCHES = ("beam", "dvts", "cut", "stretch")


@dataclass(frozen=True)
class SearchConfig:
    """A search for one answer, or samples with a forced budget (rl/evaluation/search.py)."""

    kind: str = knob(
        "beam", "beam: the best of all continuations; dvts: trees of one beam each; cut: made to answer at `tokens`; "
        "stretch: made to think on until `tokens`.",
        choices=SEARCHES,
    )  # fmt: skip
    width: int = knob(4, "Beams kept, or trees.", lo=1)
    expand: int = knob(4, "Continuations of each beam; of cut and stretch, samples of a problem.", lo=1)
    step: tuple[str, ...] = knob(("\n\n",), "Texts that end a step.")
    max_steps: int = knob(40, "Most steps of a solution.", lo=1)
    max_step_tokens: int = knob(256, "Most tokens of a step.", lo=1)
    scorer: str = knob("", "Name of the reward that scores beginnings of solutions; best a process reward model.")
    tokens: int = knob(256, "cut, stretch: the budget, tokens.", lo=1)
    force: str = knob(
        "</think>\n\nThe final answer is \\boxed{", "cut: text that makes the model answer, once the budget is spent."
    )
    answer_tokens: int = knob(64, "cut: tokens for the answer after that.", lo=1)
    close: str = knob("</think>", "stretch: text that closes the thought; it and what follows are taken back.")
    more: str = knob("Wait", "stretch: text that is put in its place.")
    times: int = knob(8, "stretch: how often a thought is made to go on, at most.", lo=1)

    @property
    def by_steps(self) -> bool:
        return self.kind in ("beam", "dvts")

    @property
    def label(self) -> str:
        """ "beam-4x4", "cut-256": its name in metrics."""
        return f"{self.kind}-{self.width}x{self.expand}" if self.by_steps else f"{self.kind}-{self.tokens}"


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation through the samplers."""

    data: DataConfig = knob(DataConfig, "Held-out problems.")
    every: int = knob(0, "GRPO steps between evaluations; 0: only before and after training.", lo=0, keyed=False)
    samples: int = knob(4, "k: samples per problem for pass@1 and cons@k.", lo=1)
    pass_at: tuple[int, ...] = knob((), "Each k of pass@k, at most samples; empty: 1, 2, 4, ... and samples.")
    select: tuple[str, ...] = knob(
        ("majority",), "Ways to choose one answer among the samples: majority, logprob (the likeliest), shortest, and "
        "rewards by name, as best of k and as the weight of votes; a reward of weight 0 only chooses.",
        before=("majority",),
    )  # fmt: skip
    search: tuple[SearchConfig, ...] = knob(
        (), "Searches, each measured beside the samples as search@KIND-WIDTHxEXPAND, with the tokens it takes.",
        before=(),
    )  # fmt: skip
    temperature: float = knob(1.0, "Sampling temperature of pass@1 (R1's protocol: 0.6).", lo=0.01, hi=5)
    top_p: float = knob(1.0, "Probability mass of nucleus sampling (R1's protocol: 0.95).", lo=0.01, hi=1)
    greedy: bool = knob(True, "Measure the accuracy of greedy decoding too.")
    max_new_tokens: int = knob(0, "Longest completion, tokens; 0: rollout.max_new_tokens (R1: 32,768).", lo=0)
    stop: tuple[str, ...] = knob((), "Texts that end a completion, in addition to rollout.stop and the end token.")
    instruction: str = knob(
        "", "Text after each question, on its own line, as 'Please reason step by step, ...' in R1's protocol."
    )
    shots: int = knob(0, "Worked examples before each question (R1: 0, since few-shot prompts hurt).", lo=0)
    shots_data: DataConfig = knob(DataConfig, "Source of the worked examples, drawn by seed; none: the prompts.")
    shot: str = knob(
        "Question: {prompt}\nAnswer: {target}\n\\boxed{{answer}}",
        "Form of a worked example; the question has the same form, up to {target} or {answer}.",
    )
    contamination: str = knob(
        "warn", "Problems that share 10 words in a row with a training row: warn, error, or off.",
        choices=("warn", "error", "off"),
    )  # fmt: skip

    @property
    def ask(self) -> AskConfig:
        """How evaluation questions are put to the model."""
        return AskConfig(self.instruction, self.shots, self.shots_data, self.shot)


KEEPS = ("all", "first", "shortest", "longest", "diverse")


@dataclass(frozen=True)
class TeacherConfig:
    """An OpenAI-compatible endpoint that answers in place of the stage's model: rl/rollouts/teacher.py."""

    url: str = knob(
        "", "Address of the endpoint, like https://host/v1; empty: the stage's own model is sampled.", keyed=False
    )
    model: str = knob("", "Name of the endpoint's model, as GET /models gives it.", before="")
    api_key_env: str = knob(
        "OPENAI_API_KEY", "Environment variable that holds the key; a vLLM server needs none.", keyed=False
    )
    concurrency: int = knob(32, "Most requests at one time.", lo=1, keyed=False)
    timeout_s: float = knob(600.0, "Longest silence in one attempt, seconds.", lo=0.01, keyed=False)
    retries: int = knob(4, "How often a failed request is sent again.", lo=0, keyed=False)
    max_failed_share: float = knob(
        0.1, "Stop when more than this share of a chunk's samples have no answer.", lo=0, hi=1, keyed=False
    )
    send_seed: bool = knob(True, "Send each sample's seed; false for endpoints that refuse the field.", before=True)
    without_thought: str = knob(
        "keep", "Answers without a thought: keep them (yield.json counts them) or drop them.",
        choices=("keep", "drop"), before="keep",
    )  # fmt: skip
    prompt_price: float = knob(0.0, "USD per million prompt tokens, for yield.json; 0: not given.", lo=0, keyed=False)
    completion_price: float = knob(0.0, "USD per million completion tokens, reasoning included.", lo=0, keyed=False)


@dataclass(frozen=True)
class AskConfig:
    """How a question is put to the model that is sampled. The rows that are kept hold the bare question.

    R1 collects the long chains of its cold start in this way: with worked examples, and with an instruction to reflect
    and verify (V1 2.3.1).
    """

    instruction: str = knob("", "Text after each question, on its own line.")
    shots: int = knob(0, "Worked examples before each question.", lo=0)
    shots_data: DataConfig = knob(DataConfig, "Rows to draw the worked examples from, by the run's seed.")
    shot: str = knob(
        "Question: {prompt}\nAnswer: {target}",
        "Form of a worked example; the question has the same form, up to {target} or {answer}.",
    )
    form: str = knob(
        "{prompt}", "Text that replaces the question, with {prompt} in it; it may hold the row's {target} and {answer}."
    )


@dataclass(frozen=True)
class RejectConfig:
    """Rejection sampling: how many samples are drawn, and which are kept. Filters: rewards/filters.py; 0 turns one off.

    R1 keeps only correct samples, and drops those with mixed languages, long paragraphs or code blocks (V1 2.3.3). Its
    thresholds are undisclosed.
    """

    samples: int = knob(8, "Samples per prompt.", lo=1)
    keep: str = knob("first", "Which of a prompt's samples to keep, of those that pass.", choices=KEEPS)
    max_kept: int = knob(1, "Most samples kept of one prompt; keep=all ignores it.", lo=1)
    correct: bool = knob(True, "Keep only samples that the first reward calls correct.")
    truncated: bool = knob(False, "Keep samples cut at the limit too.")
    min_score: float = knob(-1e9, "Keep only samples whose weighted reward is at least this.")
    max_solve_share: float = knob(
        1.0, "Leave out prompts with a larger share of correct samples: too easy to teach anything.", lo=0, hi=1
    )
    min_language_share: float = knob(0.0, "Smallest share of the chain's words that is in one language.", lo=0, hi=1)
    max_paragraph_words: int = knob(0, "Longest paragraph of the chain, words.", lo=0)
    no_code: bool = knob(False, "Drop samples with a fenced code block in the chain.")
    max_repeated_share: float = knob(0.0, "Largest share of repeated 10-grams.", lo=0, hi=1)
    min_tokens: int = knob(0, "Shortest completion, tokens.", lo=0)
    max_tokens: int = knob(0, "Longest completion, tokens.", lo=0)
    chunk_prompts: int = knob(
        64, "Prompts sampled between two writes to disk; a run that is killed loses at most these.", lo=1, keyed=False
    )
    top_logprobs: int = knob(
        0,
        "Top logprobs stored for each token of the kept samples, for sft.distill.cached; 0: none.",
        lo=0,
        hi=20,
        before=0,
    )
    ask: AskConfig = knob(
        AskConfig, "Instruction and worked examples that the model gets with each question.", before=AskConfig()
    )
    teacher: TeacherConfig = knob(TeacherConfig, "An endpoint to sample instead of the stage's model.")
    search: tuple[SearchConfig, ...] = knob(
        (),
        "A search whose solutions are taken for samples, one at most; its scorer is a reward of the stage.",
        before=(),
    )


@dataclass(frozen=True)
class LabelConfig:
    """Labels for the steps of sampled solutions, found by completing their beginnings (Math-Shepherd, 2312.08935)."""

    samples: int = knob(4, "Solutions of each prompt.", lo=1)
    rollouts: int = knob(8, "Completions of each beginning.", lo=1)
    step: tuple[str, ...] = knob(("\n\n",), "Texts that end a step.")
    method: str = knob(
        "each", "each: every beginning is completed; bisect: halving finds the first wrong step (2406.06592).",
        choices=("each", "bisect"),
    )  # fmt: skip
    soft: bool = knob(True, "each: a label is the share of right completions; false: 1 where any is right, else 0.")
    max_steps: int = knob(40, "Solutions with more steps are left out.", lo=1)
    chunk_prompts: int = knob(
        64, "Prompts labelled between two writes to disk; a run that is killed loses at most these.", lo=1, keyed=False
    )


@dataclass(frozen=True)
class MixPart:
    """One dataset of a mixture, read with prompt_field, answer_field and target_field."""

    data: DataConfig = knob(DataConfig, "The rows.")
    quota: int = knob(0, "Rows to draw, by the seed and without replacement; 0: all.", lo=0)
    domain: str = knob("", "Value of the rows' domain column; empty: each row keeps its own.")


@dataclass(frozen=True)
class MixConfig:
    """A mixture of datasets (R1's 800,000 examples: V2 table 5)."""

    parts: tuple[MixPart, ...] = knob((), "The datasets.")
    against: tuple[DataConfig, ...] = knob((), "Evaluation sets: rows that share 10 words in a row are left out.")
    deduplicate: bool = knob(True, "Leave out rows that repeat an earlier prompt and target, white space aside.")
    shuffle: bool = knob(True, "Shuffle all rows by the seed; false: one part after the other.")
    short: str = knob("error", "If a part has fewer rows than its quota: stop, or take all.", choices=("error", "take"))


@dataclass(frozen=True)
class PreferConfig:
    """Preference pairs from samples: what is compared, who says which is better, which pairs are kept.

    R1 (Nature, Methods) asks DeepSeek-V3 four times, in random order, keeps clear differences, and balances
    the lengths of chosen and rejected; its way of balancing is undisclosed.
    """

    samples: tuple[str, ...] = knob((), "Samples of earlier stages: @stage (its samples.jsonl), or files of that form.")
    function: str = knob(
        "",
        "Rule instead of a judge, 'module:function': f(first, second, *, prompt, answer, **columns) -> above 0: first.",
    )
    base_url: str = knob("", "Address of the judge's OpenAI-compatible endpoint; it ends in /v1.")
    judge: str = knob("", "Name of the judge's model at that endpoint.")
    api_key_env: str = knob(
        "OPENAI_API_KEY", "Environment variable that holds the key; a vLLM server needs none.", keyed=False
    )
    timeout_s: float = knob(60.0, "Longest wait for one answer of the judge, seconds.", lo=1, keyed=False)
    retries: int = knob(3, "How often a failed request is sent again.", lo=0, keyed=False)
    cache: str = knob(
        "runs/llm_judge.sqlite", "SQLite file that keeps the judge's answers: nothing is asked twice.", keyed=False
    )
    max_tokens: int = knob(
        8192, "Most tokens that the judge may write for one answer, its thinking included.", lo=1, before=8192
    )
    temperature: float = knob(
        0.0, "The judge's sampling temperature; -1 leaves it to the endpoint.", lo=-1, hi=5, before=0.0
    )
    response_format: str = knob(
        "json_schema", "Form in which the judge is asked to answer first; one that is refused falls back to the next.",
        choices=("json_schema", "json_object", "none"), before="json_schema",
    )  # fmt: skip
    extra: str = knob(
        "", 'Further fields of a request to the judge, as JSON: \'{"reasoning_effort": "low"}\'.', before=""
    )
    pairs_per_prompt: int = knob(1, "Pairs of each prompt's samples to compare, drawn by the seed; 0: all.", lo=0)
    balance_lengths: bool = knob(
        True, "Keep equally many pairs whose chosen response is the longer and the shorter one."
    )
    scores: str = knob(
        "response", "Which length to balance: the whole response's, or only that of what follows the thinking.",
        choices=("response", "summary"), before="response",
    )  # fmt: skip
    domain: str = knob("", "Value of the rows' domain column; empty: each row keeps its own.")
    chunk_prompts: int = knob(
        64, "Prompts compared between two writes to disk; a run that is killed loses at most these.", lo=1, keyed=False
    )


@dataclass(frozen=True)
class RewardTrainConfig:
    """Training of a reward model, with R1's settings (10.1038/s41586-025-09422-z). Formulas:
    rl/algorithms/reward_loss.py.
    """

    kind: str = knob(
        "pairwise", "pairwise: chosen and rejected response (R1: helpfulness); pointwise: one with label (R1: safety); "
        "process: one with a label for each step.",
        choices=("pairwise", "pointwise", "process"),
    )  # fmt: skip
    scores: str = knob(
        "response", "What it reads: the whole response (R1: safety) or what follows the thinking (R1: helpfulness).",
        choices=("response", "summary"),
    )  # fmt: skip
    data: DataConfig = knob(DataConfig, "The rows; prompt_field is the question.")
    chosen_field: str = knob("chosen", "pairwise: column with the better response.")
    rejected_field: str = knob("rejected", "pairwise: column with the worse response.")
    response_field: str = knob("response", "pointwise: column with the response.")
    label_field: str = knob("label", "pointwise: column with true or 1 for a good (safe) response, else false or 0.")
    steps_field: str = knob("completions", "process: column with the list of steps.", before="completions")
    step_labels_field: str = knob(
        "labels", "process: column with a label for each step: true, false, or a share from 0 to 1.", before="labels"
    )
    step_separator: str = knob(
        "\n\n", "process: text between two steps, where the first ends in no space already.", before="\n\n"
    )
    eval_data: DataConfig = knob(DataConfig, "Held-out rows; without a source: held_out_share of the data.")
    held_out_share: float = knob(
        0.05, "Share of the questions that is held out, with all their rows, to measure accuracy.", lo=0, hi=0.5
    )
    steps: int = knob(0, "Optimiser updates; 0: as many as epochs need.", lo=0)
    epochs: float = knob(1.0, "Passes over the rows (R1: 1).", lo=0)
    rows_per_step: int = knob(256, "Pairs, or labelled responses, of one update (R1: 256).", lo=1)
    max_tokens: int = knob(
        8192, "Longest question and response, tokens; longer ones lose their end and are counted (R1: 8,192).", lo=8
    )
    eval_every: int = knob(
        0, "Updates between measurements of held-out accuracy; 0: only before and after.", lo=0, keyed=False
    )
    optim: OptimConfig = knob(lambda: OptimConfig(lr=6e-6), "Optimiser (R1: 6e-6; its schedule is undisclosed).")

    def total_steps(self, rows: int) -> int:
        """Updates over this many rows: 1 epoch of 10 rows, 4 a step -> 3 (10 / 4, rounded up)."""
        return self.steps or math.ceil(self.epochs * rows / self.rows_per_step)


@dataclass(frozen=True)
class LearnerConfig:
    """The learner, which runs DeepSpeed."""

    ranks: int = knob(1, "Data-parallel learner processes.", lo=1)
    zero_stage: int = knob(1, "DeepSpeed ZeRO stage.", lo=0, hi=3)
    dither: bool = knob(
        True, "In bfloat16 and float16: spread the float32 copy of the weights once, at the start, within what rounds "
        "to the same weights, so that small updates are not lost (rl/workers/learner/dither.py).",
        before=False,
    )  # fmt: skip
    micro_batch_tokens: int = knob(4096, "Most tokens in a micro-batch, padding included.", lo=8)
    offload: str = knob(
        "none", "optimizer: its float32 weights and moments lie in host memory and are updated there: slower, 12 bytes "
        "less of the GPU's memory for each trained parameter.",
        choices=("none", "optimizer"), before="none",
    )  # fmt: skip
    layout: str = knob(
        "auto", "rows: similar lengths, padded; packed: all in one row; auto: packed on GPUs, rows on CPUs.",
        choices=("auto", "rows", "packed"),
    )  # fmt: skip
    logprob_chunk_tokens: int = knob(1024, "Tokens whose logits are in memory at once.", lo=1)
    share_prompts: str = knob(
        "auto", "Compute a group's prompt once, not for each sample; auto: on CPUs, where the model allows it.",
        choices=("auto", "true", "false"), before="auto",
    )  # fmt: skip
    gradient_checkpointing: bool = knob(False, "Recompute activations going backward: less memory, a third more work.")
    threads: int = knob(0, "CPU threads of a rank; 0: the node's cores, divided among its ranks.", lo=0)
    sequence_parallel: int = knob(
        1,
        "Neighbouring ranks that share each micro-batch, each a slice of its tokens (Ulysses); for SFT only.",
        lo=1,
        before=1,
    )

    @property
    def data_parallel(self) -> int:
        """How many groups of ranks there are; each has its own micro-batches."""
        return self.ranks // self.sequence_parallel

    def layout_on(self, *, gpu: bool) -> str:
        """rows or packed. CPU kernels do not skip what a mask excludes; sequences that ranks share are packed."""
        if self.layout != "auto":
            return self.layout
        return "packed" if gpu or self.sequence_parallel > 1 else "rows"

    def shares_on(self, *, gpu: bool) -> bool:
        """Whether prompts are to be shared, in GRPO and with a model that allows it."""
        return self.share_prompts == "true" or (self.share_prompts == "auto" and not gpu)


@dataclass(frozen=True)
class SamplerConfig:
    """The samplers, which run vLLM."""

    count: int = knob(1, "Number of samplers.", lo=1)
    tensor_parallel: int = knob(1, "GPUs of one sampler.", lo=1)
    max_sequences: int = knob(256, "Most sequences that a sampler decodes at once.", lo=1)
    kv_cache_gib: float = knob(1.0, "KV cache of a CPU sampler, GiB.", lo=0.01)
    gpu_memory_share: float = knob(
        0.0, "Share of a GPU's memory for a GPU sampler; 0: 0.9, or what a learner on the same GPU leaves.",
        lo=0, hi=0.98, in_key=share_in_key,
    )  # fmt: skip
    enforce_eager: bool = knob(True, "Capture no CUDA graphs, which makes the start faster.")
    prefix_caching: bool = knob(True, "Share the prompt's KV cache among the samples of a group.")
    threads: int = knob(0, "CPU threads of a sampler; 0: the node's cores, divided among its samplers.", lo=0)
    deterministic: bool = knob(True, "Prompts go to samplers by number, so that a resumed run repeats itself.")
    seeded: bool = knob(
        True, "Each sample has a seed of its own, so that a resumed run repeats itself; false: vLLM draws the tokens "
        "of all samples at once, which may be faster. On GPUs neither speed nor repeatability has been measured.",
        before=True,
    )  # fmt: skip


@dataclass(frozen=True)
class ClusterConfig:
    """Ray, and the limits of every wait."""

    address: str = knob("", "Ray address; empty: start a local cluster (or join RAY_ADDRESS).")
    device: str = knob("auto", "What the workers run on.", choices=("auto", "cpu", "gpu"))
    cpus_per_worker: float = knob(0.5, "CPUs reserved in Ray for each learner rank and sampler.", lo=0)
    colocated: str = knob(
        "auto", "Learners and samplers share devices and take turns: samplers sleep while learners work. auto: where "
        "the cluster has one GPU.",
        choices=("auto", "true", "false"),
    )  # fmt: skip
    weight_transfer: str = knob(
        "auto", "auto: nccl between GPUs, ipc where workers share them, bucket (through Ray's object store) on CPUs.",
        choices=("auto", "bucket", "nccl", "ipc"),
    )  # fmt: skip
    lora_sync: str = knob(
        "auto", "With LoRA, a sync sends the adapter alone, or weights with the adapter merged: bfloat16 then rounds "
        "small updates away. auto: the adapter where vLLM can run it.",
        choices=("auto", "adapter", "merged"),
    )  # fmt: skip
    bucket_mib: int = knob(64, "Largest bucket in which weights are sent, MiB.", lo=1)
    start_timeout_s: float = knob(
        0, "Bound on starting the cluster or one worker, seconds; 0: 300 on CPUs, 1800 on GPUs, where a first start "
        "compiles kernels and graphs.", lo=0,
    )  # fmt: skip
    rollout_timeout_s: float = knob(600, "Bound on a sampler decoding nothing while it has work, seconds.", lo=1)
    reward_timeout_s: float = knob(
        3600, "Bound on the rewards of one group, waiting for a free worker included, seconds.", lo=1
    )
    step_timeout_s: float = knob(3600, "Bound on one learner call, seconds.", lo=1)
    sync_timeout_s: float = knob(600, "Bound on one weight sync, seconds.", lo=1)

    def start_bound_s(self, device: str) -> float:
        """start_timeout_s, or the default of the device, "cpu" or "gpu"."""
        return self.start_timeout_s or {"cpu": 300.0, "gpu": 1800.0}[device]


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints for resuming, in <run>/checkpoints."""

    every: int = knob(10, "Steps between checkpoints; the last step is always saved.", lo=1)
    keep: int = knob(2, "How many of the latest to keep; the best by held-out pass@1 is kept too.", lo=1)


@dataclass(frozen=True)
class TrackConfig:
    """What is shown, and what is recorded."""

    wandb: str = knob("offline", "W&B; offline: into files, for later upload.", choices=("off", "offline", "online"))
    project: str = knob("aha", "W&B project.")
    tensorboard: bool = knob(False, "Write TensorBoard event files to <run>/tensorboard.")
    gauges: bool = knob(True, "Also show each metric as a Ray gauge, for Ray's Prometheus and Grafana.")
    rollouts: bool = knob(True, "Write every rollout with its reward parts to <run>/rollouts.")


@dataclass(frozen=True)
class RunConfig:
    """One run: an optional SFT cold start, then GRPO, with evaluation before, during and after."""

    name: str = knob("run", "Name of the run and of its folder.")
    out: str = knob("runs", "Folder of all runs.")
    seed: int = knob(1, "Seed of data order, sampling and initialisation.", lo=0)
    model: ModelConfig = knob(ModelConfig, "The model.")
    prompts: DataConfig = knob(DataConfig, "Training prompts.")
    rewards: tuple[RewardConfig, ...] = knob((), "Parts of the reward.")
    scoring: ScoringConfig = knob(ScoringConfig, "Where rewards run.")
    environments: tuple[EnvironmentConfig, ...] = knob((), "What answers the model between turns.", before=())
    rollout: RolloutConfig = knob(RolloutConfig, "Sampling for training.")
    sft: SFTConfig = knob(SFTConfig, "SFT cold start.")
    grpo: GRPOConfig = knob(GRPOConfig, "GRPO.")
    evaluation: EvalConfig = knob(EvalConfig, "Evaluation.")
    learner: LearnerConfig = knob(LearnerConfig, "Learners.")
    sampler: SamplerConfig = knob(SamplerConfig, "Samplers.")
    cluster: ClusterConfig = knob(ClusterConfig, "Cluster.")
    checkpoint: CheckpointConfig = knob(CheckpointConfig, "Checkpoints.")
    track: TrackConfig = knob(TrackConfig, "Tracking.")

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.name

    @property
    def old_logprobs(self) -> str:
        """Whose logprobs are the ratio's denominator: learner or sampler."""
        auto = "sampler" if self.rollout.staleness else "learner"
        return auto if self.grpo.old_logprobs == "auto" else self.grpo.old_logprobs

    @property
    def gap_limit(self) -> float:
        """Largest mean difference between sampler's and learner's logprobs that a run tolerates, nats."""
        return self.grpo.max_logprob_gap or (1e-3 if self.model.dtype == "float32" else 0.05)

    def batch_arithmetic(self) -> str:
        """The batch sizes in words."""
        g = self.grpo
        return (
            f"{g.prompts_per_step} prompts x {g.group_size} samples = {g.rollouts_per_step} rollouts per step, "
            f"{g.updates_per_step} optimiser update{'s' if g.updates_per_step > 1 else ''} of "
            f"{g.rollouts_per_step // g.updates_per_step} rollouts, in micro-batches of at most "
            f"{self.learner.micro_batch_tokens} tokens on {self.learner.ranks} "
            f"learner rank{'s' if self.learner.ranks > 1 else ''}"
        )
