"""File formats: weights, GGUF adapters, and training files with their validation."""
