"""What a recipe of several stages is written with: the stages, the recipe, and claims. Loads no torch.

    Recipe("r1", base, (SFT("cold", ...), GRPO("zero", "@cold", ...), Evaluate("eval", "@zero", ...)))

Overrides reach a stage by its name ("zero.grpo.steps=10"), and everything else in the base ("learner.ranks=2").
"""

from rl.stage import KINDS, Recipe, Reference, Stage, inputs_of, references, run_config, stage_to_dict, trained_on
from rl.stages.build import Build
from rl.stages.compare import Claim, Compare
from rl.stages.evaluate import Evaluate
from rl.stages.export import Export
from rl.stages.grpo import GRPO
from rl.stages.label import Label
from rl.stages.mix import Mix
from rl.stages.prefer import Prefer
from rl.stages.reject import Reject
from rl.stages.reward_model import RewardTraining
from rl.stages.sft import SFT

__all__ = [
    "GRPO", "KINDS", "SFT", "Build", "Claim", "Compare", "Evaluate", "Export", "Label", "Mix", "Prefer", "Recipe",
    "Reference", "Reject", "RewardTraining", "Stage", "inputs_of", "references", "run_config", "stage_to_dict",
    "trained_on",
]  # fmt: skip
