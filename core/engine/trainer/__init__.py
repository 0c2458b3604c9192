"""The trainer: one process, one fine-tuning job. LoRA on a frozen base, made for a few CPU cores.

What makes it faster than a general trainer (figures: docs/benchmarks.md): the vocabulary head is never asked for more
than the completion positions, and never keeps its logits (`head`); frozen matrices need no gradient (`lora`); where
the processor multiplies bfloat16 faster, the frozen matrices are bfloat16 (`precision`).
"""
