"""The trainer: one process per fine-tuning job. LoRA on a frozen base model, optimised for a few CPU cores.

It is faster than a general-purpose trainer (figures: docs/benchmarks.md) for three reasons: the output head is computed
only for completion positions and its logits are never stored (`head`), no gradient is computed for frozen matrices
(`LoraLinear`), and those are bfloat16 if the processor multiplies bfloat16 faster (`device`).
"""
