"""Rewards: plain functions of text. They know nothing of the trainer.

A reward is `f(completion: str, *, prompt: str, answer: str, **columns) -> Score` (or a number):

    completion  what the model wrote            prompt   what it was given, template included
    answer      the row's reference answer      columns  the other columns of the row

It need not take what it does not use: `def short(completion): return float(len(completion) < 200)` is a reward.

Each docstring here says which parameters come from the row and which are settings, given in the recipe by
RewardConfig(options=("percent=lenient",)). COLUMNS says the same as data: a column of a row never fills a setting.
A recipe names a reward of its own as "module:function"; functions in the shape of TRL and open-r1,
`f(prompts, completions, **columns) -> list[float | None]`, work by the same name.
"""

REWARDS: dict[str, str] = {
    "accuracy": "rewards.accuracy:accuracy",
    "code_accuracy": "rewards.code:code_accuracy",
    "cosine_length": "rewards.shaping:cosine_length",
    "countdown": "rewards.countdown:countdown",
    "format": "rewards.format:format_r1",
    "format_boxed": "rewards.format:format_boxed",
    "format_cold_start": "rewards.format:format_cold_start",
    "language_consistency": "rewards.language:language_consistency",
    "llm_judge": "rewards.llm_judge:llm_judge",
    "llm_pairwise": "rewards.llm_judge:llm_pairwise",
    "length_budget": "rewards.shaping:length_budget",
    "reasoning_gym": "rewards.reasoning:reasoning_gym",
    "repetition": "rewards.shaping:repetition",
    "soft_overlong": "rewards.shaping:soft_overlong",
}
"""Short name -> "module:function". Strings, so that naming a reward imports nothing."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "code_accuracy": ("tests", "entry_point", "setup", "checker", "language"),
    "countdown": ("numbers", "target"),
    "language_consistency": ("language", "question", "problem"),
    "length_budget": ("budget",),
    "llm_judge": ("question",),
    "llm_pairwise": ("question",),
    "reasoning_gym": ("family", "facts"),
}
"""Short name -> the row's columns that the reward reads, beside prompt and answer. Its other parameters are settings:
a column of the same name does not change them."""

GUARDS = frozenset(("run_untrusted_code_without_sandbox",))
"""Settings that take a guard away. An option does so only as `true`, letter by letter, and a row's column never."""

STYLE = frozenset((
    "format", "format_boxed", "format_cold_start", "language_consistency", "length_budget", "repetition",
    "soft_overlong",
))  # fmt: skip
"""Short names of the rewards that say nothing of what is right."""

TEXT_ALONE = frozenset((
    "accuracy", "countdown", "format", "format_boxed", "format_cold_start", "language_consistency", "reasoning_gym",
))  # fmt: skip
"""Short names of the rewards that work on the text alone and pay 0 at the least. A text that makes one of them too slow
or too large is wrong: left out of the loss, it would escape its penalty."""

REFERENCE_CHECKS: dict[str, str] = {"accuracy": "rewards.accuracy:check_reference"}
"""Short name -> "module:function" that takes a row's answer and returns why nothing compares with it, or None."""

ROW_CHECKS: dict[str, str] = {"code_accuracy": "rewards.code_tests:check_row"}
"""Short name -> "module:function" that takes a row, and the reward's settings by name, and returns why no completion
could be right there, or None."""

TIMEOUTS_S: dict[str, float] = {"code_accuracy": 60.0, "llm_judge": 600.0, "llm_pairwise": 1200.0}
"""Short name -> seconds that one sample may take, where DEFAULT_TIMEOUT_S is too short."""

DEFAULT_TIMEOUT_S = 10.0


def short_name(spec: str) -> str:
    """The name under which the tables here list a reward: "rewards.countdown:countdown" and "countdown" -> "countdown".

    A reward of one's own is listed nowhere, and keeps its name.
    """
    return next((name for name, target in REWARDS.items() if spec in (name, target)), spec)
