"""Parity: is a new model as good as the one that it replaces? Compares their answers to the same rows.

Start with `core.parity.report`: it scores the rows (`row_scores`), decides (`verdict`), and is kept as JSON or
Markdown.
"""
