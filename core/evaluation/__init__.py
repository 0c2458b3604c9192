"""Evaluation: scores a tuned model and its base on held-out rows, and compares texts from before and after training.
Start with `core.evaluation.evaluations` and `core.evaluation.before_after`.
"""
