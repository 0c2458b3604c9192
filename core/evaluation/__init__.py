"""Evaluation: what a tuned model writes, beside its base and judged on held-out rows. Start with
`core.evaluation.evaluations`."""
