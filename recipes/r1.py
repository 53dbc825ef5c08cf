"""R1's four stages at full scale, on Qwen2.5-32B: cold start, RL, rejection sampling and SFT, RL over all domains.

    aha run recipes/r1.py zero=/path/to/r1-zero/model judge_url=http://HOST:8000/v1

Source: DeepSeek-R1 (arXiv 2501.12948v2): section 3, B.3 (data), B.4.2 (SFT), Nature's Methods (RL settings,
reward models). R1 is 671B; these are its numbers on a 32B model.
Hardware: 4 nodes of 8 GPUs of 80 GB. `aha plan` says what fits.
Deliberately different: prompts are public ones (OpenR1-Math-220k, tulu-3-sft-mixture for what needs no reasoning), not
R1's; the cold start takes R1-Zero's readable samples as they are, where R1 has them rewritten by a model and by people;
the helpful model's pairs are of the SFT model's samples, judged once in each order (R1: four times, at random); the
safety model learns BeaverTails' labels (R1: 106,000 responses of its own); both start from the SFT model.
Undisclosed in R1, chosen here: steps of the first RL stage, thresholds of the filters, how the rewards are scaled, how
lengths of pairs are balanced, what share of the preference data is held out.
"""

from dataclasses import replace

from recipes.r1_zero import AIME_ZERO, PROMPTS, zero_grpo
from rl.config import (
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
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    SFTConfig,
)
from rl.recipe import GRPO, SFT, Build, Evaluate, Mix, Prefer, Recipe, Reject, RewardTraining, Stage

BASE = "Qwen/Qwen2.5-32B"
RULES = (RewardConfig("accuracy"), RewardConfig("format"))
LANGUAGE = RewardConfig("language_consistency")
R1_SFT = SFTConfig(  # V2 B.4.2: 2-3 epochs, 5e-5 to 5e-6 by cosine, batch 128
    epochs=2, examples_per_step=128, overlong="drop", optim=OptimConfig(lr=5e-5, schedule="cosine", final_lr_share=0.1)
)
READABLE = RejectConfig(
    samples=4, keep="first", max_kept=1, min_score=2.0, min_language_share=0.95, max_paragraph_words=400, no_code=True,
    max_repeated_share=0.2,
)  # fmt: skip
GENERAL = DataConfig(source="recipes.r1:general_prompts", template="r1_zero", answer_field="")
ROLLOUT = RolloutConfig(temperature=1.0, max_new_tokens=32_768)


def recipe(
    zero: str = "runs/r1-zero-32b/model",
    helpful: str = "",
    safety: str = "",
    judge_url: str = "",
    judge: str = "deepseek-ai/DeepSeek-V3",
) -> Recipe:
    """Called by `aha run recipes/r1.py`. zero: the R1-Zero model. helpful, safety: reward models that are there.

    Without them they are trained: the safety model always, the helpful one where judge_url names an OpenAI-compatible
    endpoint, with judge the model there that compares responses (R1: DeepSeek-V3); else there is none.
    """
    trained = [*([] if helpful or not judge_url else _helpful(judge_url, judge)), *([] if safety else _safety())]
    helpful = helpful or ("@helpful" if judge_url else "")
    base = RunConfig(
        model=ModelConfig(context_length=32_768 + 1024),
        learner=LearnerConfig(ranks=16, zero_stage=3, micro_batch_tokens=34_816, gradient_checkpointing=True),
        sampler=SamplerConfig(count=4, tensor_parallel=4, enforce_eager=False),
    )
    first_rl = replace(zero_grpo(lr=3e-6, steps=100), clip_low=10.0, clip_high=10.0)  # Nature: lr 3e-6, clip 10
    last_rl = replace(first_rl, steps=107)  # 1,700 updates in batches of 16
    evaluation = EvalConfig(data=AIME_ZERO, samples=16, temperature=0.6, top_p=0.95, greedy=False)
    data = replace(PROMPTS, limit=100_000)
    return Recipe(
        "r1-32b",
        base,
        (
            Reject("zero_samples", zero, replace(data, limit=5_000), RULES, ROLLOUT, READABLE),
            SFT("cold_start", BASE, replace(R1_SFT, data=_sft_data("@zero_samples"))),
            GRPO("reasoning_rl", "@cold_start", PROMPTS, (*RULES, LANGUAGE), ROLLOUT, first_rl, evaluation),
            Reject("reasoning_samples", "@reasoning_rl", data, RULES, ROLLOUT, replace(READABLE, keep="all")),
            Build("general", "recipes.r1:general_rows", ()),
            Mix("mixture", _mixture()),
            SFT("sft", BASE, replace(R1_SFT, data=_sft_data("@mixture"))),
            *trained,
            GRPO("final_rl", "@sft", _final_prompts(), _final_rewards(helpful, safety or "@safety"),
                 replace(ROLLOUT, temperature=0.7), last_rl, evaluation),
            Evaluate("result", "@final_rl", (RewardConfig("accuracy"),), ROLLOUT, replace(evaluation, samples=64)),
        ),
    )  # fmt: skip


def _sft_data(source: str) -> DataConfig:
    return DataConfig(source=source, template="r1_zero")


def _mixture() -> MixConfig:
    """Three reasoning samples to one other, as R1's 600k and 200k (V2 B.3.3)."""
    return MixConfig(
        parts=(
            MixPart(DataConfig(source="@reasoning_samples"), quota=600_000, domain="reasoning"),
            MixPart(DataConfig(source="@general", answer_field=""), quota=200_000, domain="general"),
        ),
        against=(AIME_ZERO,),
        short="take",
    )


def _helpful(judge_url: str, judge: str) -> list[Stage]:
    """Pairs of the SFT model's answers, and the model trained on them: 66,000 pairs, general prompts only (Methods)."""
    prompts = replace(GENERAL, limit=66_000)
    everything = RejectConfig(samples=2, keep="all", correct=False)
    pairs = PreferConfig(samples=("@general_samples",), base_url=judge_url, judge=judge, domain="helpful")
    return [
        Reject("general_samples", "@sft", prompts, RULES[1:], ROLLOUT, everything),
        Prefer("helpful_pairs", pairs),
        RewardTraining(
            "helpful", "@sft", RewardTrainConfig(data=DataConfig(source="@helpful_pairs"), scores="summary")
        ),
    ]


def _safety() -> list[Stage]:
    """The model trained on responses labelled safe or unsafe: pointwise, the same settings (Methods)."""
    data = DataConfig(source="recipes.r1:safety_rows", answer_field="")
    return [RewardTraining("safety", "@sft", RewardTrainConfig(kind="pointwise", data=data))]


def _final_prompts() -> DataConfig:
    return DataConfig(source="recipes.r1:final_prompts", template="r1_zero", unjudgeable="drop")


def _final_rewards(helpful: str, safety: str) -> tuple[RewardConfig, ...]:
    """V2 eq. 8-10. Preference models count in the last 25 batches: 400 of 1,700 updates."""
    rules = tuple(replace(reward, domains=("reasoning",)) for reward in RULES[:1])
    preferences = tuple(
        RewardConfig(
            f"model:{model}", name=name, domains=(name,), from_step=-25,
            model=RewardModelConfig(scores=scores, output="sigmoid"),
        )
        for model, name, scores in ((helpful, "helpful", "summary"), (safety, "safety", "response"))
        if model
    )  # fmt: skip
    return (*rules, RULES[1], LANGUAGE, *preferences)


# ------------------------------------------------------------------------------------------------ data from the Hub


def general_rows() -> list[dict[str, object]]:
    """Instructions with their answers from allenai/tulu-3-sft-mixture, one turn each, to learn from."""
    from datasets import load_dataset

    rows = []
    for row in load_dataset("allenai/tulu-3-sft-mixture", split="train", streaming=True):
        messages = row["messages"]
        if [m["role"] for m in messages] == ["user", "assistant"]:
            rows.append({"prompt": messages[0]["content"], "target": messages[1]["content"], "domain": "general"})
        if len(rows) == 250_000:
            break
    return rows


def general_prompts() -> list[dict[str, object]]:
    """The prompts of general_rows, for sampling."""
    return [{"prompt": row["prompt"], "domain": "helpful"} for row in general_rows()]


def safety_rows() -> list[dict[str, object]]:
    """106,000 distinct responses of PKU-Alignment/BeaverTails (CC BY-NC 4.0), labelled safe (1) or not (0)."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for row in _beavertails("330k_train"):
        found = {"prompt": row["prompt"], "response": row["response"], "label": int(bool(row["is_safe"]))}
        rows.setdefault((str(row["prompt"]), str(row["response"])), found)
        if len(rows) == 106_000:
            break
    return list(rows.values())


def _beavertails(split: str) -> list[dict[str, object]]:
    from datasets import load_dataset

    return list(load_dataset("PKU-Alignment/BeaverTails", split=split))


def final_prompts() -> list[dict[str, object]]:
    """Reasoning prompts with their answers, as many general ones (helpful), and up to 12,000 for the safety reward."""
    from datasets import load_dataset

    maths = load_dataset("open-r1/OpenR1-Math-220k", split="train")
    rows = [{"prompt": r["problem"], "answer": r["answer"], "domain": "reasoning"} for r in maths]
    general = general_rows()[: len(rows)]
    harmless = list(dict.fromkeys(str(row["prompt"]) for row in _beavertails("330k_test")))[:12_000]
    rows += [{"prompt": r["prompt"], "answer": "none", "domain": "helpful"} for r in general]
    return [*rows, *({"prompt": prompt, "answer": "none", "domain": "safety"} for prompt in harmless)]
