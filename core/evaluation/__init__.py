"""Evaluation: scores a tuned model and its base on held-out rows, and shows texts of both before and after training.
Start with `core.evaluation.evaluations` and `core.evaluation.before_after`."""
