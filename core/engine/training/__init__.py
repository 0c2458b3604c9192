"""Training jobs: the queue, tokenisation, the trainer process and its events."""
