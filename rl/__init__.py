"""Aha: GRPO reinforcement learning for reasoning models, through Ray, vLLM and DeepSpeed."""
