"""From a dataset to what the learner computes on: rows are read (rows), written with a template (templates, few_shot),
tokenised and drawn in a seeded order (streams, sft_examples, preference_pairs), and packed into micro-batches
(packing).
"""
