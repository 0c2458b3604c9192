"""Moves an account here: lists its tuned models and their files.

Begin with `accounts` (what a person asks for) and `mover` (what the worker does).
"""
