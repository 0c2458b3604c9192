"""The purpose of a model, and how similar a prompt is to its training prompts.

Start with `model_purpose`: what a model is for and how it was trained. `prompt_similarity` compares prompts.
"""
