"""From a dataset to the learner's micro-batches: rows are read (rows), put into a template (templates, few_shot),
tokenised and drawn in a seeded order (streams, sft_examples, preference_pairs), and packed (packing).
"""
