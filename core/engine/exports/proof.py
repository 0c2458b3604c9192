"""Compares an exported model with the trained one: the KL divergence of their next-token probabilities.

The trainer's own forward pass (float32) is the reference. llama.cpp loads the exported GGUF file, transformers the
exported folder. A wrong scale, a row order or a missing matrix changes the probabilities by far more than rounding.
"""

from __future__ import annotations

import gc
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.engine import finetune_format
from core.engine.bases import check
from core.engine.bases.llama_probe import LlamaProbe
from core.engine.exports import peft_folder
from core.engine.exports.record import ProofFigure
from core.engine.finetune_format import Conversation, Preference, PromptCompletion
from core.engine.formats import gguf_keys, hf_folder, tokens
from core.engine.formats.gguf_file import Adapter
from core.engine.serving.llama import BaseModel
from core.engine.training.file_validation import as_example

PROMPTS = 50
_LONGEST = 256  # tokens of a prompt; llama_probe's context is 512
_SHORTEST = 8  # characters of the shortest built-in prompt
_PLACE_STEP = 7  # tokens between the compared places of answers
_LISTED = 2000  # most likely tokens that llama.cpp returns; the others are compared as one
_NEVER = 1e-12  # probabilities below this are rounding

Prompt = tuple[int, ...]
LogProbs = npt.NDArray[np.float32]
Progress = Callable[[float], None]


def prompts(training_file: Path | None, base: BaseModel, tokenize: Callable[[str], list[int]]) -> list[Prompt]:
    """Token ids of `PROMPTS` prompts: examples of the training file, up to a place in their answer; built-in texts if
    the file is gone.
    """
    examples: list[tokens.Encoded] = []
    card = base.card
    if training_file is not None and training_file.is_file():
        for line in islice(lines(training_file), PROMPTS):
            examples.append(tokens.encode(as_example(line, base), tokenize, card.bos, card.eos, card.adds_space))
    if examples:
        return [_cut(examples[number % len(examples)], number) for number in range(PROMPTS)]
    lengths = (_SHORTEST + number * len(check.TEXT) // (2 * PROMPTS) for number in range(PROMPTS))
    begin = () if card.bos is None else (card.bos,)
    return [(*begin, *tokenize(check.TEXT[:length])) for length in lengths]


def lines(training_file: Path) -> Iterator[PromptCompletion | Conversation]:
    """The examples of a training file; of preferences, those with the preferred answer."""
    for _, example in finetune_format.read_examples(training_file):
        yield example.preferred if isinstance(example, Preference) else example


def first_line(training_file: Path) -> PromptCompletion | Conversation | None:
    """The first example of a training file; None if the file is gone or empty."""
    return next(lines(training_file), None) if training_file.is_file() else None


def _cut(example: tokens.Encoded, number: int) -> Prompt:
    """An example up to a place in its answer, which depends on the prompt's number."""
    start = max(1, example.trained.index(True))
    place = start + number * _PLACE_STEP % max(1, len(example.tokens) - start)
    return example.tokens[: min(place, _LONGEST)]


def reference(
    folder: Path, adapter: Adapter, asked: Sequence[Prompt], threads: int, on_progress: Progress = lambda _: None
) -> LogProbs:
    """Log-probabilities of every next token in the trainer, [prompts, vocabulary]."""
    import torch

    from core.engine.training.trainer import device, model

    tunable = model.load(folder, device.choose("float32", threads, lambda _: None), adapter.rank, adapter.alpha)
    tunable.load(adapter)
    rows = []
    with torch.no_grad():
        for number, prompt in enumerate(asked):
            last = tunable.hidden(torch.tensor([prompt]))[0, -1]
            rows.append(torch.log_softmax(tunable.logits(last), dim=-1).numpy())
            on_progress((number + 1) / len(asked))
    del tunable
    gc.collect()  # the model is as large as the next one
    return np.stack(rows)


def of_llama(
    probe: LlamaProbe, asked: Sequence[Prompt], ours: LogProbs, on_progress: Progress = lambda _: None
) -> ProofFigure:
    """Compare a model that llama.cpp has loaded."""
    forced, listed = probe.tokens("a")[-1], min(_LISTED, ours.shape[1])
    divergences, same = [], 0
    for number, (prompt, row) in enumerate(zip(asked, ours, strict=True)):
        theirs = probe.log_probabilities(prompt, listed, forced)
        ids = np.array(list(theirs))
        divergences.append(_divergence(row, ids, np.array(list(theirs.values()))))
        same += int(row.argmax()) == max(theirs, key=theirs.__getitem__)
        on_progress((number + 1) / len(asked))
    return _figure("llama.cpp", divergences, same)


def of_merged_folder(
    folder: Path, asked: Sequence[Prompt], ours: LogProbs, on_progress: Progress = lambda _: None
) -> ProofFigure:
    """Compare an exported folder in transformers, loaded as a user would, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    return _of_transformers("transformers", model, asked, ours, on_progress)


def of_adapter_folder(
    base: Path, folder: Path, asked: Sequence[Prompt], ours: LogProbs, on_progress: Progress = lambda _: None
) -> ProofFigure:
    """Compare an exported PEFT folder on its base: in PEFT if it is installed; otherwise transformers' matrices, with
    the update that the folder's files describe.
    """
    model = _base_in_transformers(base)
    program = "transformers"
    if importlib.util.find_spec("peft") is not None:
        from peft import PeftModel

        model, program = PeftModel.from_pretrained(model, str(folder)), "peft"
    else:
        _add_update(model, folder)
    return _of_transformers(program, model, asked, ours, on_progress)


def _base_in_transformers(folder: Path) -> Any:
    """The base as transformers computes it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(gguf_keys.text_config(folder), dtype=torch.float32)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stored in hf_folder.read_tensors(folder).items():
            target, row = parameters.get(name), 0
            if target is None:
                continue  # a head that is the embedding
            for block in stored.blocks():
                part = torch.from_numpy(block)
                if len(stored.shape) > 1:
                    target.view(stored.shape[0], -1)[row : row + len(block)] = part
                    row += len(block)
                else:
                    target.copy_(part)
    return model


def _add_update(model: Any, folder: Path) -> None:
    """Add lora_alpha / r · B A to the matrices, as PEFT does."""
    import torch
    from safetensors.numpy import load_file

    config = json.loads((folder / peft_folder.CONFIG).read_text(encoding="utf-8"))
    scale, tensors = config["lora_alpha"] / config["r"], load_file(folder / peft_folder.WEIGHTS)
    suffix = ".lora_A.weight"
    with torch.no_grad():
        for name, a in tensors.items():
            if name.endswith(suffix):
                module = model.get_submodule(name.removeprefix(peft_folder.PREFIX).removesuffix(suffix))
                b = tensors[name.replace(".lora_A.", ".lora_B.")]
                module.weight += scale * torch.from_numpy(b @ a)


def _of_transformers(
    program: str, model: Any, asked: Sequence[Prompt], ours: LogProbs, on_progress: Progress
) -> ProofFigure:
    import torch

    model.eval()
    divergences, same = [], 0
    with torch.no_grad():
        for number, (prompt, row) in enumerate(zip(asked, ours, strict=True)):
            logits = model(input_ids=torch.tensor([prompt]), logits_to_keep=1, use_cache=False).logits[0, -1].float()
            theirs = torch.log_softmax(logits, dim=-1).numpy()[: len(row)]
            divergences.append(_divergence(row, np.arange(len(theirs)), theirs))
            same += int(row.argmax()) == int(theirs.argmax())
            on_progress((number + 1) / len(asked))
    return _figure(program, divergences, same)


def _divergence(ours: LogProbs, ids: npt.NDArray[np.int64], theirs: npt.NDArray[Any]) -> float:
    """KL(ours ‖ theirs) in nats, over the tokens `ids` and the sum of all others."""
    mine, other = ours[ids].astype(np.float64), theirs.astype(np.float64)
    p, q = np.exp(mine), np.exp(other)
    found = float(np.sum(np.where(p > _NEVER, p * (mine - other), 0.0)))
    rest_p, rest_q = max(0.0, 1.0 - float(p.sum())), max(_NEVER, 1.0 - float(q.sum()))
    if rest_p > 1e-6:  # below this, the difference of two sums near 1 is rounding
        found += rest_p * float(np.log(rest_p / rest_q))
    return max(0.0, found)


def _figure(program: str, divergences: Sequence[float], same: int) -> ProofFigure:
    count = len(divergences)
    return ProofFigure(program, count, float(np.mean(divergences)), float(max(divergences)), same / count)


def rounded(figure: ProofFigure) -> ProofFigure:
    """The figure with as many digits as are meaningful."""
    return replace(
        figure,
        mean_kl=float(f"{figure.mean_kl:.3g}"),
        max_kl=float(f"{figure.max_kl:.3g}"),
        same_top=round(figure.same_top, 4),
    )
