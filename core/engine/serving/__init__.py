"""Inference: llama.cpp in a process of its own, chat templates, sampling, streams."""
