"""R1's four stages at full scale, on Qwen2.5-32B: cold start, RL, rejection sampling and SFT, RL over all domains.

    aha run recipes/r1.py zero=/path/to/r1-zero/model writer_url=http://HOST:8000/v1 judge_url=http://HOST:8000/v1

Source: DeepSeek-R1 (arXiv 2501.12948v2): section 3, B.3 (data), B.4.2 (SFT), Nature's Methods (RL settings,
reward models). R1 is 671B; these are its numbers on a 32B model.
Hardware: 6 nodes of 8 GPUs of 80 GB (32 learner ranks, 12 GPUs of samplers, one for each reward model), and the
endpoint of a large model (R1: DeepSeek-V3) as writer and judge.
Deliberately different: prompts are public ones (r1_reasoning.py, r1_general.py), not R1's, and those of more than 4,000
tokens are left out; without writer_url the cold start takes R1-Zero's readable samples as they are, and general answers
have no chain; nobody rewrites samples by hand; the helpful model's pairs are of the SFT model's samples, judged once in
each order (R1: four times, at random); the safety model learns BeaverTails' labels (R1: 106,000 responses of its own);
both start from the SFT model; the last RL stage is two, since general prompts and preference rewards come only in its
last 400 updates, and the optimiser starts anew between them; SFT reads up to 36,864 tokens (R1: 32,768), prompt and
completion; AIME is asked in R1-Zero's form; the difference between sampler and learner is corrected by truncated
importance weights. The mixture has table 5's quotas, or what the public prompts yield where that is less.
Undisclosed in R1, chosen here: steps of the first RL stage, thresholds of the filters, how the rewards are scaled, how
lengths of pairs are balanced, what share of the preference data is held out, samples per prompt by domain, which
general requests get a chain.
"""

from __future__ import annotations

from dataclasses import replace

from recipes import cold_start
from recipes.cold_start import CONTEXT, READABLE, ROLLOUT
from recipes.r1_general import HELPFUL_PROMPTS
from recipes.r1_reasoning import CODE_PROMPTS, MATH_PROMPTS, RL_PROMPTS
from recipes.r1_zero import MODELS, zero_grpo
from rl.config import (
    AskConfig,
    DataConfig,
    EvalConfig,
    LearnerConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    OptimConfig,
    PreferConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RewardTrainConfig,
    RunConfig,
    SamplerConfig,
    SFTConfig,
    TeacherConfig,
)
from rl.recipe import GRPO, SFT, Build, Evaluate, Mix, Prefer, Recipe, Reject, RewardTraining, Stage

BASE = MODELS["32b"]
COOLER = replace(ROLLOUT, temperature=0.7)  # the last RL stage
FORMAT = RewardConfig("format")
RULES = (
    RewardConfig("accuracy", domains=("math", "stem")),
    RewardConfig("code_accuracy", domains=("code",)),
    RewardConfig("reasoning_gym", domains=("logic",)),
)
LANGUAGE = RewardConfig("language_consistency")
R1_SFT = SFTConfig(  # V2 B.4.2: 2-3 epochs, 5e-5 to 5e-6 by cosine, batch 128
    epochs=2, examples_per_step=128, overlong="drop", optim=OptimConfig(lr=5e-5, schedule="cosine", final_lr_share=0.1)
)
AIME = DataConfig(source="recipes.r1_reasoning:aime", template="r1_zero", shuffle=False)
PROMPTS = RL_PROMPTS | {"math": MATH_PROMPTS, "code": CODE_PROMPTS}
SAMPLES = {"math": 4, "code": 16, "stem": 1, "logic": 1}
QUOTAS = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395}  # V2 table 5
GENERAL_QUOTA = 177_812  # V2 table 5
THINK = (
    "Before you answer, think about what is asked and what a good answer needs. Write your thinking between <think> "
    "and </think>, and the answer itself between <answer> and </answer>. Write nothing else."
)


def recipe(
    zero: str = "runs/r1-zero-32b/model",
    helpful: str = "",
    safety: str = "",
    judge_url: str = "",
    judge: str = "deepseek-ai/DeepSeek-V3",
    writer_url: str = "",
    writer: str = "deepseek-ai/DeepSeek-V3",
) -> Recipe:
    """Called by `aha run recipes/r1.py`. zero: the R1-Zero model. helpful, safety: reward models that exist.

    Without them they are trained: the safety model always, the helpful one only if judge_url names an OpenAI-compatible
    endpoint; judge is the model there that compares responses (R1: DeepSeek-V3).
    writer_url, writer: the endpoint and its model that make cold-start samples and chains for general answers.
    """
    trained = [*([] if helpful or not judge_url else _helpful(judge_url, judge)), *([] if safety else _safety())]
    helpful = helpful or ("@helpful" if judge_url else "")
    base = RunConfig(
        model=ModelConfig(context_length=CONTEXT),
        learner=LearnerConfig(ranks=32, zero_stage=3, micro_batch_tokens=CONTEXT, gradient_checkpointing=True),
        sampler=SamplerConfig(count=3, tensor_parallel=4, enforce_eager=False),
    )
    first_rl = replace(zero_grpo(lr=3e-6, steps=100), clip_low=10.0, clip_high=10.0)  # Nature: lr 3e-6, clip 10
    evaluation = EvalConfig(data=AIME, samples=16, temperature=0.6, top_p=0.95, greedy=False)
    cold, cold_data = cold_start.stages(zero, writer_url, writer, prompts=5_000)
    return Recipe(
        "r1-32b",
        base,
        (
            *cold,
            SFT("cold_start", BASE, replace(R1_SFT, data=_sft_data(cold_data))),
            GRPO("reasoning_rl", "@cold_start", _prompts("r1_reasoning:reasoning_prompts"),
                 (*RULES, FORMAT, LANGUAGE), ROLLOUT, first_rl, evaluation),
            *(_samples(domain) for domain in QUOTAS),
            *_general(writer_url, writer),
            Mix("mixture", _mixture(chains=bool(writer_url))),
            SFT("sft", BASE, replace(R1_SFT, data=_sft_data("@mixture"))),
            *trained,
            # 1,700 updates, 16 a step; the last 400 of all domains.
            GRPO("late_rl", "@sft", _prompts("r1_reasoning:reasoning_prompts"), (*RULES, FORMAT, LANGUAGE),
                 COOLER, replace(first_rl, steps=82), evaluation),
            GRPO("final_rl", "@late_rl", _prompts("r1_general:final_prompts"),
                 _final_rewards(helpful, safety or "@safety"), COOLER, replace(first_rl, steps=25), evaluation),
            Evaluate("result", "@final_rl", (RewardConfig("accuracy"),), ROLLOUT, replace(evaluation, samples=64)),
        ),
    )  # fmt: skip


def _prompts(task: str, limit: int = 0) -> DataConfig:
    """Rows of a module of recipes/, in R1-Zero's template."""
    source = f"recipes.{task}"
    return DataConfig(source=source, template="r1_zero", limit=limit, unjudgeable="drop", long_prompts="drop")


def _sft_data(source: str) -> DataConfig:
    return DataConfig(source=source, template="r1_zero")


def _samples(domain: str) -> Reject:
    """Several samples of each prompt of a domain, the correct and readable ones kept (V2 B.3.3)."""
    chosen = replace(READABLE, samples=SAMPLES[domain], keep="all")
    rules = tuple(rule for rule in RULES if domain in rule.domains)
    prompts = _prompts(f"r1_reasoning:{domain}_prompts", PROMPTS[domain])
    return Reject(f"{domain}_samples", "@reasoning_rl", prompts, (*rules, FORMAT), ROLLOUT, chosen)


def _general(writer_url: str, writer: str) -> list[Stage]:
    """General requests with their answers; with a writer, some get a chain of its own instead, the short ones none."""
    general = Build("general", "recipes.r1_general:general_rows", ())
    if not writer_url:
        return [general]
    questions = DataConfig(source="@general_questions", template="plain", answer_field="")
    chosen = replace(
        READABLE, samples=1, min_score=1.0, ask=AskConfig(THINK), teacher=TeacherConfig(url=writer_url, model=writer)
    )
    return [
        general,
        Build("general_plain", "recipes.r1_general:without_a_chain", ("@general",)),
        Build("general_questions", "recipes.r1_general:worth_a_chain", ("@general",)),
        Reject("general_chains", BASE, questions, (FORMAT,), ROLLOUT, chosen),
    ]


def _mixture(chains: bool) -> MixConfig:
    """R1's 800k by domain (V2 table 5)."""
    general = {"@general_plain": 0.5, "@general_chains": 0.5} if chains else {"@general": 1.0}
    reasoning = (
        MixPart(DataConfig(source=f"@{domain}_samples"), quota=quota, domain=domain) for domain, quota in QUOTAS.items()
    )
    other = (
        MixPart(DataConfig(source=source, answer_field=""), quota=round(share * GENERAL_QUOTA), domain="general")
        for source, share in general.items()
    )
    return MixConfig(parts=(*reasoning, *other), against=(AIME,), short="take")


def _helpful(judge_url: str, judge: str) -> list[Stage]:
    """Pairs of the SFT model's answers, and the model trained on them: 66,000 pairs, general prompts only (Methods)."""
    prompts = _prompts("r1_general:general_prompts", HELPFUL_PROMPTS)
    everything = RejectConfig(samples=2, keep="all", correct=False)
    pairs = PreferConfig(
        samples=("@general_samples",), base_url=judge_url, judge=judge, domain="helpful", scores="summary"
    )
    return [
        Reject("general_samples", "@sft", prompts, (FORMAT,), ROLLOUT, everything),
        Prefer("helpful_pairs", pairs),
        RewardTraining(
            "helpful", "@sft", RewardTrainConfig(data=DataConfig(source="@helpful_pairs"), scores="summary")
        ),
    ]


def _safety() -> list[Stage]:
    """The model trained on responses labelled safe or unsafe: pointwise, the same settings (Methods)."""
    data = DataConfig(source="recipes.r1_general:safety_rows", answer_field="")
    return [RewardTraining("safety", "@sft", RewardTrainConfig(kind="pointwise", data=data))]


def _final_rewards(helpful: str, safety: str) -> tuple[RewardConfig, ...]:
    """V2 eq. 8-10, for the last 25 batches: 400 of 1,700 updates."""
    preferences = tuple(
        RewardConfig(
            f"model:{model}", name=name, domains=(name,), model=RewardModelConfig(scores=scores, output="sigmoid")
        )
        for model, name, scores in ((helpful, "helpful", "summary"), (safety, "safety", "response"))
        if model
    )  # fmt: skip
    return (*RULES, FORMAT, LANGUAGE, *preferences)
