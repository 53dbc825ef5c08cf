"""Weight sync: the learner sends its weights in buckets (send.py, buckets.py), and the sampler's vLLM engine loads them
(vllm_transfer.py).
"""
