"""The trainer: one process per fine-tuning job. LoRA on a frozen base model, optimised for a few CPU cores.

It is faster than a general trainer (figures: docs/benchmarks.md) because the output head is computed only for
completion positions and never stores its logits (`head`), frozen matrices need no gradient (`LoraLinear`), and they
are bfloat16 if the processor multiplies that faster (`device`).
"""
