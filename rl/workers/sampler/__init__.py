"""The sampler: a vLLM engine that turns prompts into rollouts (sampler.py), as precise on a CPU as the learner
(precision.py).
"""
