"""Moves an account here: lists its tuned models, archives what belongs to them, and makes data sets and jobs of it.

Begin with `accounts` (what a person asks for) and `mover` (what the worker does). `python -m core.migrate`
does the same without a browser.
"""
