"""R1's six distilled students: SFT on a teacher's samples, no RL.

    aha run recipes/distill_students.py student=qwen-7b data=/path/to/samples.jsonl

Source: DeepSeek-R1 (arXiv 2501.12948v2) B.4.3 and table 6: 2-3 epochs, batch 64, context 32,768; each student's
learning rate falls to a tenth by cosine.
Hardware: one node of 8 GPUs of 80 GB up to 14B, four nodes for 32B and 70B.
Deliberately different: R1's 800k samples are not public; the default is open-r1's Mixture-of-Thoughts, made by R1.
Qwen2.5-Math has 4,096 positions. DeepSeek does not say how it reached 131,072 with the same rotary base, so these
students get 32,768 and a base of 300,000, as in open-r1 (Qwen2.5-Math-7B-RoPE-300k, AIME 2024 52.7). Llama-3.1-8B has
no chat template and gets that of its Instruct model, not DeepSeek's own. Both: recipes/bases.py.
"""

from rl.config import DataConfig, GRPOConfig, LearnerConfig, ModelConfig, OptimConfig, RunConfig, SFTConfig
from rl.recipe import SFT, Recipe
from rl.types import BadInput

STUDENTS = {  # name: (base, peak learning rate of table 6, learner ranks)
    "qwen-1.5b": ("recipes.bases:qwen_math_1_5b", 1e-4, 8),
    "qwen-7b": ("recipes.bases:qwen_math_7b", 8e-5, 8),
    "qwen-14b": ("Qwen/Qwen2.5-14B", 7e-5, 8),
    "qwen-32b": ("Qwen/Qwen2.5-32B", 6e-5, 32),
    "llama-8b": ("recipes.bases:llama_8b", 5e-5, 8),
    "llama-70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5, 32),
}


def recipe(student: str = "qwen-7b", data: str = "") -> Recipe:
    """Called by `aha run recipes/distill_students.py`. data: rows with prompt and target."""
    if student not in STUDENTS:
        raise BadInput(f"student={student}: must be one of {', '.join(STUDENTS)}")
    path, lr, ranks = STUDENTS[student]
    mixture = DataConfig(source="open-r1/Mixture-of-Thoughts", subset="all", messages_field="messages", template="chat")
    examples = DataConfig(source=data, template="chat") if data else mixture
    base = RunConfig(
        model=ModelConfig(context_length=32_768),
        learner=LearnerConfig(ranks=ranks, zero_stage=3, micro_batch_tokens=32_768, gradient_checkpointing=True),
        grpo=GRPOConfig(steps=0),
    )
    sft = SFTConfig(
        epochs=2, examples_per_step=64, data=examples, overlong="drop",
        optim=OptimConfig(lr=lr, schedule="cosine", final_lr_share=0.1),
    )  # fmt: skip
    return Recipe(f"distill-{student}", base, (SFT("student", path, sft),))
