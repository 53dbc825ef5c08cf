"""Weight sync: the learner sends its weights bucket by bucket (send, buckets), and the sampler's engine takes them in
(vllm_transfer).
"""
