"""The learner: one rank of a DeepSpeed engine that trains a model (learner.py) with a loss (objectives.py) and gives
out its weights (weights_out.py).
"""
