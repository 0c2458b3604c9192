"""Exports of tuned models for other programs: a folder of files, a proof that they compute the same, and a model card.

Start reading at `library`; `make` is the process that writes and checks one export.
"""
