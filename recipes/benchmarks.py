"""Evaluation sets by name, and R1's protocol for them.

The Hub ids and columns are those of the sets' own cards. A local copy is a path and the same columns:
dataclasses.replace(GSM8K, source="data/gsm8k/test.jsonl").
"""

from __future__ import annotations

import dataclasses

from rl.config import DataConfig, EvalConfig

STEP_BY_STEP = r"Please reason step by step, and put your final answer within \boxed{}."
"""Zero-shot chain of thought, as R1's evaluation puts it (Nature 10.1038/s41586-025-09422-z, Ext. Data Table 1)."""

GSM8K = DataConfig(
    source="openai/gsm8k", subset="main", split="test", prompt_field="question", answer_field="answer",
    answer_after="####", target_field="answer", template="chat", shuffle=False,
)  # fmt: skip
"""1,319 school problems; the worked answers end in "#### n"."""

MATH500 = DataConfig(
    source="HuggingFaceH4/MATH-500", split="test", prompt_field="problem", answer_field="answer",
    target_field="solution", template="chat", shuffle=False,
)  # fmt: skip
"""500 problems of MATH, levels 1 to 5."""

AIME = DataConfig(
    source="HuggingFaceH4/aime_2024", split="train", prompt_field="problem", answer_field="answer",
    target_field="solution", template="chat", shuffle=False,
)  # fmt: skip
"""The 30 problems of AIME 2024; the answers are whole numbers from 0 to 999."""

BENCHMARKS = {"gsm8k": GSM8K, "math500": MATH500, "aime": AIME}

EXAMPLES = {"gsm8k": dataclasses.replace(GSM8K, split="train")}
"""Where the worked examples of few-shot prompting come from: never the rows that are evaluated."""

R1_SAMPLES = {"aime": 64, "math500": 16}
"""k of pass@1 in R1's evaluation (V2 D.1): 64 for AIME, 16 for MATH."""


THINK = "Let's think step by step."
"""Zero-shot chain of thought in its first wording (Kojima et al. 2022, 2205.11916)."""
SHOTS = 8
"""Worked examples of chain-of-thought prompting (Wei et al. 2022, 2201.11903)."""


def zero_shot_cot(cfg: EvalConfig) -> EvalConfig:
    """The question and "Let's think step by step." (2205.11916)."""
    return dataclasses.replace(cfg, instruction=THINK, shots=0)


def few_shot(cfg: EvalConfig) -> EvalConfig:
    """Eight worked examples before the question (2201.11903)."""
    return dataclasses.replace(cfg, instruction="", shots=SHOTS)


def self_consistency(cfg: EvalConfig) -> EvalConfig:
    """The majority of 40 samples at temperature 0.7, after worked examples (Wang et al. 2022, 2203.11171)."""
    return dataclasses.replace(few_shot(cfg), samples=40, temperature=0.7, select=("majority",), greedy=False)


PROMPTINGS = {"zero_shot_cot": zero_shot_cot, "few_shot": few_shot, "self_consistency": self_consistency}
"""Ways to prompt, by name: each turns the settings of an evaluation into its own."""


def r1_protocol(name: str) -> EvalConfig:
    """R1's evaluation of a benchmark (V2 D.1): zero-shot, temperature 0.6, top-p 0.95, up to 32,768 tokens, pass@1 as
    the mean of k samples. GSM8K is not in the paper: it gets MATH's 16. Greedy is left out, as there.
    """
    return EvalConfig(
        data=BENCHMARKS[name],
        samples=R1_SAMPLES.get(name, 16),
        temperature=0.6,
        top_p=0.95,
        max_new_tokens=32_768,
        greedy=False,
        instruction=STEP_BY_STEP,
    )
