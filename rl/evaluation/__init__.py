"""How good a model is: held-out problems are sampled and rewarded (evaluate; resumable for long evaluations), and the
verdicts become numbers (result, metrics, consensus, style). One answer is chosen among the samples (selection), or
searched for by steps (search, searching); both are measured with the tokens that they take. emergence measures how the
training samples change.
"""
