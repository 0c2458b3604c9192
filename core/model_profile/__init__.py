"""What a model is for, and how far a prompt is from those that it was trained on.

Begin with `model_purpose.purpose_of`; `prompt_similarity` is the rule for "far", `training_prompts` reads its facts
from the ledger.
"""
