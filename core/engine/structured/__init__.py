"""Answers in a given form: JSON that follows a schema, and calls of tools, as grammars for llama.cpp (GBNF).

Begin with `response_format.py`.
"""
