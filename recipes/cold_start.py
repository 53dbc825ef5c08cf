"""A cold start from R1's three sources: worked examples, an instruction to reflect, and R1-Zero's outputs rewritten.

    aha run recipes/cold_start.py url=http://HOST:8000/v1 writer=MODEL zero=/path/to/r1-zero/model

Source: DeepSeek-R1 (arXiv 2501.12948v1, 2.3.1; v2, B.3.2): thousands of long chains, from few-shot prompting with a
long chain as the example, from asking for answers with reflection and verification, and from R1-Zero's samples, made
readable by a model. What the writer returns is checked again: a sample that lost its answer is dropped.
Hardware: a node of 8 GPUs of 80 GB for R1-Zero's samples; the writer is an OpenAI-compatible endpoint.
Deliberately different: no human rewrites or reads the samples; the form is R1-Zero's tags, with the summary as the
answer, so that the rewards of all stages read it; prompts are public ones.
Undisclosed in R1, chosen here: the wording of the instructions, and how many samples each source gives.
"""

from __future__ import annotations

from dataclasses import replace

from recipes.r1_zero import MODELS, PROMPTS
from rl.config import (
    AskConfig,
    DataConfig,
    LearnerConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    TeacherConfig,
)
from rl.recipe import Mix, Recipe, Reject, Stage

RULES = (RewardConfig("accuracy"), RewardConfig("format"))
READABLE = RejectConfig(
    samples=4, keep="first", max_kept=1, min_score=2.0, min_language_share=0.95, max_paragraph_words=400, no_code=True,
    max_repeated_share=0.2,
)  # fmt: skip
CONTEXT = 32_768 + 4096
ROLLOUT = RolloutConfig(temperature=1.0, max_new_tokens=32_768)  # R1-Zero is sampled at temperature 1 (V2 B.3.2)

FORM = (
    "Write your reasoning between <think> and </think>. Then write a short summary of the solution for the reader "
    "between <answer> and </answer>; it ends with the final answer in \\boxed{}. Write nothing else."
)
REFLECT = (
    "Reason in the first person and in the language of the question. Reflect on each step before the next one, "
    "verify the result in another way, and where a step was wrong, say so and correct it. " + FORM
)
REFINE = (
    "A question and a draft of its solution follow. Rewrite the draft so that a person likes to read it.\n\n"
    "Keep the path of the reasoning, with its doubts, checks and corrections, in the first person and in full "
    "sentences. Write in the language of the question alone, and translate what is in another one. Leave out "
    "repetition and everything that leads nowhere. Do not change the final answer.\n\n"
    f"{FORM}\n\nQuestion:\n{{prompt}}\n\nDraft:\n{{target}}"
)


def recipe(
    zero: str = "runs/r1-zero-32b/model",
    url: str = "",
    writer: str = "deepseek-ai/DeepSeek-V3",
    prompts: int = 5_000,
) -> Recipe:
    """Called by `aha run recipes/cold_start.py`.

    zero: the R1-Zero model. url, writer: an OpenAI-compatible endpoint and its model; without one the data are
    R1-Zero's readable samples as they are. prompts: how many each source gets.
    """
    base = RunConfig(
        model=ModelConfig(context_length=CONTEXT),
        learner=LearnerConfig(ranks=4, zero_stage=3, micro_batch_tokens=CONTEXT, gradient_checkpointing=True),
        sampler=SamplerConfig(count=1, tensor_parallel=4, enforce_eager=False),
    )
    made, _ = stages(zero, url, writer, prompts)
    return Recipe("cold-start", base, tuple(made))


def stages(zero: str, url: str, writer: str, prompts: int) -> tuple[list[Stage], str]:
    """(the stages, "@" and the last one's name), for use in another recipe. Without a url: only Zero's samples."""
    questions = replace(PROMPTS, limit=prompts)
    zeros = Reject("zero_samples", zero, questions, RULES, ROLLOUT, READABLE)
    if not url:
        return [zeros], "@zero_samples"
    written = replace(READABLE, samples=1, teacher=TeacherConfig(url=url, model=writer))
    samples = DataConfig(source="@zero_samples", template="plain")
    example = AskConfig(FORM, 1, samples, "Question:\n{prompt}\n\nSolution:\n{target}")
    plain = replace(questions, template="plain")
    asked = {
        "refined": (samples, AskConfig(form=REFINE)),
        "few_shot": (plain, example),
        "reflected": (plain, AskConfig(REFLECT)),
    }
    # Only the tokenizer of the model is used: the endpoint samples.
    writing = [Reject(n, MODELS["32b"], d, RULES, ROLLOUT, replace(written, ask=a)) for n, (d, a) in asked.items()]
    parts = tuple(MixPart(DataConfig(source=f"@{name}"), domain=name) for name in asked)
    return [zeros, *writing, Mix("cold_start_data", MixConfig(parts))], "@cold_start_data"
