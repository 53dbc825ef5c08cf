"""The stages of a recipe, one a file: supervised fine-tuning (sft), reinforcement learning (grpo), rejection sampling
(reject, with selection), mixtures (mix), preference pairs (prefer), a reward model (reward_model), comparisons
(compare).
"""
