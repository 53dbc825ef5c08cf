"""How good a model is: held-out problems are sampled and rewarded (evaluate; resumable for long evaluations), and the
numbers are made of the verdicts (metrics, consensus, style). emergence measures how the training samples change.
"""
