"""What runs on the machines: the learner (DeepSpeed), the sampler (vLLM), the weight sync between them, and the cluster
(Ray) that places them. Only this room imports those three libraries.
"""
