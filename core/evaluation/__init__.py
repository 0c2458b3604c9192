"""Evaluation: scores a tuned model and its base on held-out rows. Start with `core.evaluation.evaluations`."""
