"""Checks a converted model folder before it can be used: llama.cpp, which serves the model, must compute the same as
transformers, which trains it.

There is no list of supported families, so each model is tested on this machine: both programs must produce the same
token ids for a text in several scripts, and the same next-token probabilities. A wrong order of rows or a missing key
changes log-probabilities by whole units; rounding changes them by a few hundredths.
"""

from __future__ import annotations

from pathlib import Path

from core.engine.bases.llama_probe import LlamaProbe
from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

TEXT = (
    "The hero's first flight took 12,345 seconds; she didn't stop.\n\n  Then they said: \"We'll win (in 2026)!\"\n"
    "唐朝的英雄会飞行，他遇到了怪兽。\tÉté à Zürich — ¿qué? Привет, мир! 🙂"
)
_PLACES = (6, 20)  # number of tokens before each compared position
_COUNT = 20  # number of next tokens compared
_NEAR = 0.5  # nats; rounding of bfloat16 stays below 0.2


def check_tokenizer(probe: LlamaProbe, folder: Path) -> None:
    """Raise UnusableModel if llama.cpp splits a text into different tokens than the folder's own tokenizer."""
    from tokenizers import Tokenizer

    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    if probe.tokens(TEXT) != expected:
        raise UnusableModel(
            "tokenizer_differs",
            msg("llama.cpp does not split text into the same tokens as this model's tokenizer."),
            msg("Use a GGUF file of this model, or another model."),
        )


def check_training(probe: LlamaProbe, folder: Path, threads: int) -> None:
    """Raise UntrainableModel if the trainer cannot load the folder or its probabilities differ from llama.cpp's."""
    import torch

    from core.engine.training.trainer import device, model

    tunable = model.load(folder, device.choose("float32", threads, lambda _: None), 1, 1.0)
    tunable.initialise(0)
    tokens = probe.tokens(TEXT)
    forced = probe.tokens("a")[-1]
    with torch.no_grad():
        hidden = tunable.hidden(torch.tensor([tokens[: max(_PLACES)]]))[0].float()
        for place in _PLACES:
            ours = torch.log_softmax(tunable.logits(hidden[place - 1]), dim=0)
            theirs = probe.log_probabilities(tokens[:place], _COUNT, forced)
            difference = max(abs(float(ours[token]) - value) for token, value in theirs.items())
            if difference > _NEAR:
                raise UntrainableModel(
                    msg(
                        "the trainer's log-probabilities differ from llama.cpp's by {difference}",
                        difference=f"{difference:.2f}",
                    )
                )
