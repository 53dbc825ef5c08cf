"""How good a model is: held-out problems are sampled and rewarded (evaluate; resumable for long evaluations), and the
verdicts become numbers (metrics, consensus, style). emergence measures how the training samples change.
"""
