"""Runs through a provider's Batch API: submit files of requests, watch the batches, collect the answers.

Begin with `batch_runner` (the loop) and `batch_lifecycle` (the steps of one batch).
"""
