"""Runs through a provider's Batch API: submit files of requests, watch the batches, collect the answers.

Start reading at `batch_runner` (the loop) and `batch_lifecycle` (the steps of one batch).
"""
