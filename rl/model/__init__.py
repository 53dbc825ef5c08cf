"""A Hugging Face model as the learner runs it: the policy (policy) with its attention (attention), adapters (lora), new
tokens (added_tokens), the reward model in training (classifier), and writing the result (writer). The driver itself
needs only a model's config and tokenizer (pretrained).
"""
