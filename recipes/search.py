r"""Does thinking longer pay? One answer chosen among 16, and searches, at equal tokens. aha run recipes/search.py

Source: the process reward models of Math-Shepherd (2312.08935), trained as in R1's account of what failed there (V1
4.2); beams and trees as in search-and-learn; budget forcing as in s1 (2501.19393). Hardware: two CPU cores, minutes.
Deliberately different: a model of a million parameters from random weights, and a task whose steps can be wrong one by
one: sums of ten digits in a row, modulo 10.

The model learns the task by SFT, but not well. Its own completions label the steps of its solutions, a process reward
model of its size learns the labels, and the evaluation chooses and searches with it.
"""

from rl.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    LabelConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RewardModelConfig,
    RewardTrainConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    SearchConfig,
    SFTConfig,
    TrackConfig,
)
from rl.recipe import SFT, Claim, Compare, Evaluate, Label, Recipe, RewardTraining

STEP = (",",)
ACCURACY = RewardConfig("accuracy")
PRM = RewardConfig(
    "model:@prm", name="prm", weight=0.0, model=RewardModelConfig(steps=STEP, aggregate="min", dtype="float32")
)
EVAL = "@eval:"
CLAIMS = (
    Claim("The process model chooses better than chance", f"{EVAL}best@16:prm", f"{EVAL}pass@1"),
    Claim("... than the shortest of 16", f"{EVAL}best@16:prm", f"{EVAL}best@16:shortest"),
    Claim("... than the likeliest of 16", f"{EVAL}best@16:prm", f"{EVAL}best@16:logprob"),
    Claim("... than the majority at equal tokens", f"{EVAL}best@16:prm", f"{EVAL}cons@tokens:best@16:prm"),
    Claim("Votes weighed by it beat the majority at equal tokens", f"{EVAL}weighted@16:prm",
          f"{EVAL}cons@tokens:weighted@16:prm"),
    Claim("A beam of 4 x 4 beats the majority at equal tokens", f"{EVAL}search@beam-4x4",
          f"{EVAL}cons@tokens:search@beam-4x4"),
    Claim("Diverse trees beat the majority at equal tokens", f"{EVAL}search@dvts-4x4",
          f"{EVAL}cons@tokens:search@dvts-4x4"),
    Claim("A thought of three times the tokens answers better", f"{EVAL}search@cut-60", f"{EVAL}search@cut-20"),
    Claim("A thought that is made longer answers better", f"{EVAL}search@stretch-80", f"{EVAL}pass@1"),
)  # fmt: skip
"""What R1 found wanting, put to the test: each is printed as measured, whether it holds or not."""


def recipe(problems: int = 200, sft_steps: int = 300) -> Recipe:
    """problems: evaluated. sft_steps: how well the model knows the task before it is asked to think longer."""
    base = RunConfig(
        model=ModelConfig(path="recipes.tiny_model:quick", dtype="float32", context_length=256),
        rollout=RolloutConfig(max_new_tokens=96),
        learner=LearnerConfig(micro_batch_tokens=8192),
        sampler=SamplerConfig(kv_cache_gib=1.0),
        checkpoint=CheckpointConfig(every=100),
        track=TrackConfig(wandb="off"),
    )
    train = DataConfig(source="recipes.tasks:chain_train", template="plain")
    rollout = RolloutConfig(max_new_tokens=96)
    budgets = tuple(
        SearchConfig("cut", tokens=tokens, expand=8, force="</think> <answer>", answer_tokens=12)
        for tokens in (20, 40, 60)
    )
    stretched = SearchConfig("stretch", tokens=80, expand=8, more=",", close="</think>")
    return Recipe(
        "search",
        base,
        (
            SFT("sft", "recipes.tiny_model:quick", SFTConfig(
                steps=sft_steps, examples_per_step=64, data=train, optim=OptimConfig(lr=2e-3, warmup_steps=20),
            )),
            Label(
                "labels", "@sft", DataConfig(source="recipes.tasks:chain_label", template="plain", limit=300),
                (ACCURACY,), rollout, LabelConfig(samples=4, rollouts=4, step=STEP, chunk_prompts=100),
            ),
            RewardTraining("prm", "@sft", RewardTrainConfig(
                kind="process", data=DataConfig(source="@labels"), step_separator=STEP[0], held_out_share=0.1,
                rows_per_step=64, epochs=8, max_tokens=256, eval_every=50, optim=OptimConfig(lr=1e-3, warmup_steps=10),
            )),
            Evaluate("eval", "@sft", (ACCURACY, PRM), rollout, EvalConfig(
                data=DataConfig(source="recipes.tasks:chain_eval", template="plain", limit=problems),
                samples=64, pass_at=(1, 2, 4, 8, 16, 32, 64), select=("majority", "prm", "logprob", "shortest"),
                search=(
                    SearchConfig("beam", width=4, expand=4, step=STEP, max_step_tokens=40, scorer="prm"),
                    SearchConfig("dvts", width=4, expand=4, step=STEP, max_step_tokens=40, scorer="prm"),
                    *budgets, stretched,
                ),
            )),
            Compare("claims", CLAIMS),
        ),
    )  # fmt: skip
