"""A cold start from R1's three sources: worked examples, an instruction to reflect, and R1-Zero's outputs rewritten.

    aha run recipes/cold_start.py url=http://HOST:8000/v1 writer=MODEL zero=/path/to/r1-zero/model

Source: DeepSeek-R1 (arXiv 2501.12948v1, 2.3.1; v2, B.3.2): thousands of long chains, from few-shot prompting with a
long chain as the example, from asking for answers with reflection and verification, and from R1-Zero's samples, made
readable by a model. What the writer returns is judged again: an answer that it lost is dropped.
Hardware: the writer is an OpenAI-compatible endpoint. R1-Zero's samples take a node of 8 GPUs.
Deliberately different: no human rewrites or reads the samples; the form is R1-Zero's tags, with the summary as the
answer, so that the rewards of all stages read it; prompts are public ones.
Undisclosed in R1, chosen here: the wording of what is asked, and how many samples of each source.
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
from rl.recipe import Build, Mix, Recipe, Reject, Stage
from rl.types import Row

RULES = (RewardConfig("accuracy"), RewardConfig("format"))
READABLE = RejectConfig(
    samples=4, keep="first", max_kept=1, min_score=2.0, min_language_share=0.95, max_paragraph_words=400, no_code=True,
    max_repeated_share=0.2,
)  # fmt: skip
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
    "repetition and everything that leads nowhere. Do not change the final answer.\n\n" + FORM
)


def recipe(
    zero: str = "runs/r1-zero-32b/model",
    url: str = "",
    writer: str = "deepseek-ai/DeepSeek-V3",
    samples: int = 5_000,
) -> Recipe:
    """Called by `aha run recipes/cold_start.py`.

    zero: the R1-Zero model. url, writer: an OpenAI-compatible endpoint and its model; without one the data are
    R1-Zero's readable samples as they are. samples: prompts of each source.
    """
    base = RunConfig(
        model=ModelConfig(context_length=32_768 + 1024),
        learner=LearnerConfig(micro_batch_tokens=34_816),
        sampler=SamplerConfig(count=2, tensor_parallel=4, enforce_eager=False),
    )
    made, _ = stages(zero, url, writer, samples)
    return Recipe("cold-start", base, tuple(made))


def stages(zero: str, url: str, writer: str, samples: int) -> tuple[list[Stage], str]:
    """(the stages, "@" and the last one's name), for a recipe of one's own. Without a url, Zero's samples alone."""
    zeros = Reject("zero_samples", zero, replace(PROMPTS, limit=samples), RULES, ROLLOUT, READABLE)
    if not url:
        return [zeros], "@zero_samples"
    written = replace(READABLE, teacher=TeacherConfig(url=url, model=writer))
    example = AskConfig(FORM, 1, DataConfig(source="@zero_samples"), "Question:\n{prompt}\n\nSolution:\n{target}")
    made = [
        zeros,
        Build("to_refine", "recipes.cold_start:to_refine", ("@zero_samples",)),
        _ask("refined", DataConfig(source="@to_refine", template="plain"), written),
        Build("refined_rows", "recipes.cold_start:refined", ("@refined",)),
        _ask("few_shot", replace(PROMPTS, template="plain", limit=samples), replace(written, ask=example)),
        _ask("reflected", replace(PROMPTS, template="plain", limit=samples), replace(written, ask=AskConfig(REFLECT))),
        Mix("cold_start_data", MixConfig(tuple(
            MixPart(DataConfig(source=f"@{name}"), domain=name) for name in ("refined_rows", "few_shot", "reflected")
        ))),
    ]  # fmt: skip
    return made, "@cold_start_data"


def _ask(name: str, prompts: DataConfig, chosen: RejectConfig) -> Reject:
    """Samples of the endpoint; only the tokenizer of the model is used."""
    return Reject(name, MODELS["32b"], prompts, RULES, ROLLOUT, chosen)


def to_refine(sources: dict[str, list[Row]]) -> list[Row]:
    """A rejection stage's rows as requests to a writer: the bare question goes into the column "question"."""
    return [{**row, "question": row["prompt"], "prompt": _request(row)} for rows in sources.values() for row in rows]


def refined(sources: dict[str, list[Row]]) -> list[Row]:
    """What the writer made of them, under the bare question again."""
    return [{**row, "prompt": row["question"]} for rows in sources.values() for row in rows]


def _request(row: Row) -> str:
    return f"{REFINE}\n\nQuestion:\n{row['prompt']}\n\nDraft:\n{row['target']}"
