"""A Hugging Face model as the learner runs it: the policy (policy) with its own attention (attention), adapters (lora),
new tokens (added_tokens) and a reward model's head (classifier). pretrained reads what the driver needs: config,
tokenizer.
"""
