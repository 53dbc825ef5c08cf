"""What runs on the machines, and the only code that imports Ray, vLLM and DeepSpeed: the learner, the sampler, the
weight sync between them, and the cluster that places them.
"""
