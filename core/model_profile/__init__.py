"""The purpose of a model, and how similar a prompt is to its training prompts.

Start with `model_purpose.purpose_of`. `prompt_similarity` compares prompts; `training_prompts` reads the training
history from the ledger.
"""
