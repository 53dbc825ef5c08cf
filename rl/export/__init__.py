"""Exports a trained model as a folder that others can load: weights and tokenizer for Hugging Face (folder.py), a model
card that says how it was made (model_card.py), and a Modelfile for Ollama (ollama.py).
"""
