"""Inference: llama.cpp in its own process, chat templates, sampling, streams."""
