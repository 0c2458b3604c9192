"""Training jobs: queue, tokenization, the trainer's process and its events."""
