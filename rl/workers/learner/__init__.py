"""The learner: one rank of a DeepSpeed engine that trains (learner), its state on disk (deepspeed_engine), and what it
sends out (weights_out).
"""
