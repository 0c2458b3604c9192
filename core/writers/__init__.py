"""What a model is for, and how far a prompt is from those that it was trained on.

Begin with `purpose.purpose_of`; `likeness` is the rule for "far", `learned` reads its facts from the ledger.
"""
