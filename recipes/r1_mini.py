"""The whole R1 recipe in miniature, and its claims put to the test: aha run recipes/r1_mini.py

    base -> zero                         R1-Zero: RL alone, on accuracy and format
    zero -> zero_picks -> cold           cold start from Zero's readable outputs
    cold -> reason                       RL with language consistency
    reason -> picks -> mixed -> sft      rejection sampling, mixed with what needs no reasoning, SFT of the base
    sft -> chat_rm                       a preference model for greetings: pairs by a rule, trained from sft
    sft -> final                         RL over all domains, with the preference model in the last third
    mixed -> student; student_base -> student_rl     a smaller model taught by the result; its twin with RL alone

scale=laptop: SmolLM2-135M on sums, about an hour on two cores. scale=tiny: a million parameters on strings to reverse,
minutes; what the tests run. ablations=true adds the claims that need runs of their own; reward_model=false leaves the
preference model out.

Unlike R1: the base is taught the tasks' language first (R1's was pretrained on everything), and steps, batches and
learning rates fit the size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes import targets
from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
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
    TrackConfig,
)
from rl.recipe import GRPO, SFT, Build, Claim, Compare, Evaluate, Mix, Prefer, Recipe, Reject, RewardTraining, Stage
from rl.types import BadInput

ACCURACY = RewardConfig("accuracy", domains=("reasoning",))
FORMAT = RewardConfig("format", weight=0.2, domains=("reasoning",))
LANGUAGE = RewardConfig("language_consistency", domains=("reasoning",))
READABLE = RejectConfig(
    samples=8, keep="shortest", min_score=1.9, min_language_share=0.9, max_paragraph_words=100, no_code=True
)
EXACT = RewardConfig("recipes.r1_tasks:exact", domains=("chat",))


@dataclass(frozen=True)
class Scale:
    """What differs between the two sizes. Tasks are functions of recipes/r1_tasks.py."""

    name: str
    base: RunConfig
    teacher: str
    student: str
    task: str
    template: str
    max_new_tokens: int
    pretrain: SFTConfig
    sft: SFTConfig
    grpo: GRPOConfig
    later_steps: int
    """GRPO steps of the stages that start from a model which has the form already."""
    student_steps: int
    """SFT steps that make the student's base."""
    eval_problems: int
    eval_samples: int
    reject_prompts: int
    reward: RewardTrainConfig


def tiny(seed: int) -> Scale:
    """A model of a million parameters that reads characters, on strings to reverse."""
    return Scale(
        name="r1-mini-tiny",
        base=RunConfig(
            seed=seed,
            model=ModelConfig(dtype="float32"),
            learner=LearnerConfig(micro_batch_tokens=8192),
            sampler=SamplerConfig(kv_cache_gib=1.0, max_sequences=512),
            track=TrackConfig(wandb="off"),
        ),
        teacher="recipes.tiny_model:quick",
        student="recipes.tiny_model:student",
        task="tiny",
        template="{prompt} ",
        max_new_tokens=90,
        pretrain=SFTConfig(steps=200, examples_per_step=32, optim=OptimConfig(lr=3e-3, warmup_steps=10)),
        sft=SFTConfig(steps=20, examples_per_step=32, optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=2)),
        grpo=GRPOConfig(
            steps=6, prompts_per_step=16, group_size=8, kl_coef=0.0, clip_high=0.28, uniform_groups="drop",
            optim=OptimConfig(lr=1e-4),
        ),
        later_steps=4,
        student_steps=60,
        eval_problems=48,
        eval_samples=4,
        reject_prompts=48,
        reward=RewardTrainConfig(
            steps=40, rows_per_step=16, max_tokens=128, held_out_share=0.2, optim=OptimConfig(lr=1e-3)
        ),
    )  # fmt: skip


def laptop(seed: int) -> Scale:
    """SmolLM2-135M on sums."""
    return Scale(
        name="r1-mini",
        # The learning rates below were chosen for bfloat16 weights that round small updates away: in float32, or with
        # dithered masters, RL at 3e-5 undoes what SFT taught. Change the rates together with these two settings.
        base=RunConfig(
            seed=seed,
            model=ModelConfig(context_length=512, dtype="bfloat16"),
            learner=LearnerConfig(micro_batch_tokens=3072, dither=False),
        ),
        teacher="models/SmolLM2-135M-Instruct",
        student="recipes.tiny_model:student_of_smollm",
        task="mini",
        template="{prompt}\n",
        max_new_tokens=96,
        pretrain=SFTConfig(steps=30, examples_per_step=32, optim=OptimConfig(lr=2e-4, warmup_steps=3)),
        sft=SFTConfig(steps=12, examples_per_step=32, optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=2)),
        grpo=GRPOConfig(
            steps=18, prompts_per_step=8, group_size=8, kl_coef=0.0, clip_high=0.28, uniform_groups="drop",
            optim=OptimConfig(lr=3e-5),
        ),
        later_steps=10,
        student_steps=45,
        eval_problems=100,
        eval_samples=4,
        reject_prompts=128,
        reward=RewardTrainConfig(
            steps=30, rows_per_step=16, max_tokens=128, held_out_share=0.2, optim=OptimConfig(lr=1e-4, warmup_steps=3)
        ),
    )  # fmt: skip


SCALES = {"laptop": laptop, "tiny": tiny}


def recipe(scale: str = "laptop", seed: int = 1, ablations: bool = False, reward_model: bool = True) -> Recipe:
    """Called by `aha run recipes/r1_mini.py`. scale: laptop or tiny."""
    if scale not in SCALES:
        raise BadInput(f"scale={scale}: must be one of {', '.join(SCALES)}")
    s = SCALES[scale](seed)
    stages = [*_zero(s), *_to_sft(s), *(_reward_model(s) if reward_model else []), *_final(s, reward_model)]
    stages += _students(s)
    if ablations:
        stages += _ablations(s)
    claims = (*CLAIMS, *(REWARD_CLAIMS if reward_model else ()), *(ABLATION_CLAIMS if ablations else ()))
    return Recipe(s.name, s.base, (*stages, Compare("claims", claims)))


def _data(s: Scale, name: str, **settings: object) -> DataConfig:
    source = name if name.startswith("@") else f"recipes.r1_tasks:{name}"
    return replace(DataConfig(source=source, template=s.template), **settings)  # type: ignore[arg-type]


def _sft(s: Scale, name: str, model: str, data: str, steps: int = 0) -> SFT:
    return SFT(name, model, replace(s.sft, steps=steps or s.sft.steps, data=_data(s, data)))


def _base(s: Scale, name: str, model: str, steps: int = 0) -> SFT:
    documents = _data(s, f"{s.task}_documents", text_field="text")
    return SFT(name, model, replace(s.pretrain, steps=steps or s.pretrain.steps, data=documents))


def _grpo(s: Scale, name: str, model: str, rewards: tuple[RewardConfig, ...], prompts: str = "train") -> GRPO:
    grpo = s.grpo if model in ("@base", "@student_base") else replace(s.grpo, steps=s.later_steps)
    return GRPO(
        name, model, prompts=_data(s, f"{s.task}_{prompts}"), rewards=rewards,
        rollout=RolloutConfig(max_new_tokens=s.max_new_tokens), grpo=grpo,
    )  # fmt: skip


def _eval(s: Scale, model: str, problems: str = "", samples: int = 0, room: int = 1) -> Evaluate:
    """room: times the completion limit."""
    chat = problems == "chat"
    data = _data(s, "chat_eval" if chat else f"{s.task}_eval", limit=s.eval_problems)
    return Evaluate(
        f"eval_{model}" + ("_chat" if chat else ""), f"@{model}",
        rewards=(EXACT,) if chat else (ACCURACY, FORMAT, LANGUAGE),
        rollout=RolloutConfig(max_new_tokens=room * s.max_new_tokens),
        evaluation=EvalConfig(data=data, samples=samples or s.eval_samples, greedy=False),
    )  # fmt: skip


def _reject(s: Scale, name: str, model: str, chosen: RejectConfig) -> Reject:
    return Reject(
        name, f"@{model}", prompts=_data(s, f"{s.task}_train", limit=s.reject_prompts),
        rewards=(ACCURACY, FORMAT, LANGUAGE), rollout=RolloutConfig(max_new_tokens=s.max_new_tokens), reject=chosen,
    )  # fmt: skip


def _zero(s: Scale) -> list[Stage]:
    return [
        _base(s, "base", s.teacher), _eval(s, "base"),
        _grpo(s, "zero", "@base", (ACCURACY, FORMAT)), _eval(s, "zero"),
    ]  # fmt: skip


def _to_sft(s: Scale) -> list[Stage]:
    mixture = MixConfig(
        parts=(
            MixPart(_data(s, "@picks"), domain="reasoning"),
            MixPart(_data(s, "chat_train"), domain="chat"),
        ),
        # The held-out questions. Their chains are no secret: "30 to the number 93" is a step of many sums.
        against=(_data(s, f"{s.task}_eval", target_field=""), _data(s, "chat_eval", target_field="")),
    )
    return [
        _reject(s, "zero_picks", "zero", READABLE),
        _sft(s, "cold", "@base", "@zero_picks"), _eval(s, "cold"),
        _grpo(s, "reason", "@cold", (ACCURACY, FORMAT, LANGUAGE)), _eval(s, "reason"), _eval(s, "reason", "chat"),
        _reject(s, "picks", "reason", READABLE),
        Mix("mixed", mixture),
        _sft(s, "sft", "@base", "@mixed", 2 * s.sft.steps), _eval(s, "sft"), _eval(s, "sft", "chat"),
    ]  # fmt: skip


def _reward_model(s: Scale) -> list[Stage]:
    """Greetings of sft's and made-up ones, compared by a rule; a model that learns to tell which is better."""
    everything = RejectConfig(samples=4, keep="all", correct=False)
    return [
        Reject(
            "chat_samples", "@sft", _data(s, "chat_train", limit=s.reject_prompts), (EXACT,),
            RolloutConfig(max_new_tokens=s.max_new_tokens), everything,
        ),
        Build("greetings", "recipes.r1_preferences:greetings"),
        Prefer(
            "chat_pairs",
            PreferConfig(
                samples=("@chat_samples", "@greetings/data.jsonl"), function="recipes.r1_preferences:right_greeting",
                pairs_per_prompt=0, domain="chat",
            ),
        ),
        RewardTraining("chat_rm", "@sft", replace(s.reward, data=_data(s, "@chat_pairs"))),
    ]  # fmt: skip


def _final(s: Scale, reward_model: bool) -> list[Stage]:
    """RL over all domains; the preference model counts in the last third (R1: in the last 400 of 1,700 updates)."""
    preference = RewardConfig(
        "model:@chat_rm", domains=("chat",), from_step=-max(1, s.later_steps // 3),
        model=RewardModelConfig(output="sigmoid", dtype="float32", max_tokens=s.reward.max_tokens),
    )  # fmt: skip
    rewards = (ACCURACY, FORMAT, LANGUAGE, EXACT, *((preference,) if reward_model else ()))
    return [
        _grpo(s, "final", "@sft", rewards, "all"),
        _eval(s, "final", samples=2 * s.eval_samples),  # enough for a vote
        _eval(s, "final", "chat"),
    ]  # fmt: skip


def _students(s: Scale) -> list[Stage]:
    return [
        _base(s, "student_base", s.student, s.student_steps),
        _sft(s, "student", "@student_base", "@mixed", 2 * s.sft.steps), _eval(s, "student"),
        _grpo(s, "student_rl", "@student_base", (ACCURACY, FORMAT, LANGUAGE)), _eval(s, "student_rl"),
    ]  # fmt: skip


def _ablations(s: Scale) -> list[Stage]:
    return [
        _grpo(s, "reason_any_language", "@cold", (ACCURACY, FORMAT)), _eval(s, "reason_any_language"),
        _reject(s, "all_samples", "base", RejectConfig(samples=8, keep="all", correct=False)),
        Build("journeys", "recipes.journeys:journeys", ("@all_samples/samples.jsonl",)),
        Build("shortcuts", "recipes.journeys:shortcuts", ("@all_samples/samples.jsonl",)),
        # A journey is two chains long, and its words are new to the base.
        _sft(s, "journey", "@base", "@journeys", 2 * s.sft.steps), _eval(s, "journey", room=2),
        _sft(s, "shortcut", "@base", "@shortcuts", 2 * s.sft.steps), _eval(s, "shortcut", room=2),
        *(stage for target in targets.TARGETS for stage in _target(s, target)),
    ]  # fmt: skip


def _target(s: Scale, name: str) -> list[Stage]:
    """A student of the solved problems, taught one of three targets; it starts where the distilled one does."""
    student = _sft(s, f"student_{name}", "@student_base", f"@{name}", 2 * s.sft.steps)
    measured = replace(_eval(s, student.name), name=f"eval_{name}")
    return [Build(name, f"recipes.targets:{name}", ("@picks",)), student, measured]


CLAIMS = (
    Claim("RL alone raises accuracy from the base", "@eval_zero:pass@1", "@eval_base:pass@1", z=3.0),
    Claim("Cold start repairs the format", "@eval_cold:format_share", "@eval_zero:format_share"),
    Claim("Cold start repairs readability: one language", "@eval_cold:language", "@eval_zero:language"),
    Claim("The language reward keeps one language", "@eval_reason:language", "@eval_cold:language"),
    Claim("RL after the cold start raises accuracy", "@eval_reason:pass@1", "@eval_cold:pass@1"),
    Claim("Mixed SFT restores what needs no reasoning", "@eval_sft_chat:pass@1", "@eval_reason_chat:pass@1"),
    Claim(
        "The final stage keeps reasoning (within 5 points)", "@eval_final:pass@1", "@eval_sft:pass@1", at_least=-0.05
    ),
    Claim("Distillation beats RL on the small student", "@eval_student:pass@1", "@eval_student_rl:pass@1"),
    Claim("Majority vote beats pass@1", "@eval_final:cons", "@eval_final:pass@1"),
)
REWARD_CLAIMS = (
    Claim("The reward model tells the better greeting of held-out pairs", "@chat_rm:accuracy", "0.5", z=3.0),
)
ABLATION_CLAIMS = (
    Claim(
        "Without the language reward consistency falls", "@eval_reason:language", "@eval_reason_any_language:language"
    ),
    Claim("The language reward costs accuracy", "@eval_reason_any_language:pass@1", "@eval_reason:pass@1"),
    Claim("Journeys teach more than shortcuts", "@eval_journey:pass@1", "@eval_shortcut:pass@1"),
    *targets.CLAIMS,
)
