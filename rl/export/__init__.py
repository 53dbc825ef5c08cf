"""A trained model as a folder that others can load: weights and tokenizer as Hugging Face expects them (folder), a
model card of what it was made from (model_card), and a Modelfile for Ollama (ollama).
"""
