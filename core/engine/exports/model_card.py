"""The README.md of an export: what the model is, how far the files are from the trained model, and how to run them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from core.engine.exports.forms import ADAPTER, MAX_KL, MODEL, QUANTISED, Form
from core.engine.exports.record import ExportSpec, ProofFigure
from core.engine.formats.gguf_file import ModelCard
from core.message import percent

_TITLES: dict[Form, str] = {
    "gguf-adapter": "LoRA adapter (GGUF)",
    "peft": "LoRA adapter (PEFT)",
    "safetensors": "merged model (safetensors, float16)",
    "gguf-f16": "merged model (GGUF, F16)",
    "gguf-q8_0": "merged model (GGUF, Q8_0)",
    "gguf-q4_k_m": "merged model (GGUF, Q4_K_M)",
}


def write(
    spec: ExportSpec,
    card: ModelCard,
    proof: Sequence[ProofFigure],
    example: str,
    *,
    quantised_base: bool,
    has_file: bool,
) -> str:
    """The text.

    Args:
        example: a prompt in the format that the model was trained on.
        quantised_base: whether the base exists only as a quantised file on the engine.
        has_file: whether the proof's prompts are from the training file.
    """
    licence = spec.licence or "unknown"
    lines = [
        "---",
        f"license: {spec.licence or 'other'}",
        f"base_model: {spec.origin}",
        "tags: [lora, fabula]",
        "---",
        f"# {spec.model}",
        "",
        f"{_TITLES[spec.form]}, exported by Fabula.",
        "",
        "| | |",
        "|---|---|",
        f"| Base model | {spec.origin} ({spec.base} on the engine) |",
        f"| Licence of the base model | {licence} |",
        *(f"| {name} | {_cell(value)} |" for name, value in spec.facts),
        "",
    ]
    if quantised_base:
        lines += [
            "The base was trained from a quantised file, the only one that the engine has. The trained weights are "
            "these values plus the adapter; the original weights of the base model differ from them slightly.",
            "",
        ]
    lines += ["## Is it the same model?", "", *_proof(spec.form, proof, quantised_base, has_file), ""]
    lines += ["## Prompt format", "", *_format(spec, card, example), ""]
    lines += ["## How to run it", "", *_usage(spec, example), ""]
    return "\n".join(lines)


def _proof(form: Form, proof: Sequence[ProofFigure], quantised_base: bool, has_file: bool) -> list[str]:
    source = "of the training file" if has_file else "from a built-in text, since the engine has no training file"
    count = proof[0].prompts if proof else 0
    lines = [
        f"The next-token probabilities of this export were compared with the trainer's (float32) after {count} prompts "
        f"{source}. KL is the divergence of the export's probabilities from the trainer's, in nats.",
        "",
        "| program | mean KL | largest KL | same most likely token |",
        "|---|---|---|---|",
        *(f"| {one.program} | {one.mean_kl:.2g} | {one.max_kl:.2g} | {percent(one.same_top, 0)} |" for one in proof),
        "",
    ]
    if form in QUANTISED:
        return [*lines, "The file is quantised, so it differs from the trained model by this much."]
    if form == "gguf-adapter" and quantised_base:
        return [*lines, "The difference comes from how llama.cpp computes with the quantised base."]
    return [*lines, f"Exports with a KL above {MAX_KL} are rejected."]


def _format(spec: ExportSpec, card: ModelCard, example: str) -> list[str]:
    if spec.format == "completion":
        lines = [
            "The model continues a text. A prompt from its training; write yours in the same form, with the same end:",
            *("", "```", example, "```"),
        ]
        if spec.stop:
            lines += [
                "",
                f"Every answer in its training ends with `{json.dumps(spec.stop, ensure_ascii=False)}`, so "
                "use this text as the stop.",
            ]
        return lines
    lines = ["The model answers conversations. A prompt as it was trained on:", "", "```", example, "```"]
    if card.chat_template:
        lines += ["", "The chat template is part of the files (`tokenizer.chat_template`)."]
    return lines


def _usage(spec: ExportSpec, example: str) -> list[str]:
    form, origin = spec.form, spec.origin
    prompt = example if len(example) < 200 else example[:200]  # a short command
    if form == "peft":
        return _code(
            "python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"base = AutoModelForCausalLM.from_pretrained({origin!r})",
            'model = PeftModel.from_pretrained(base, ".")',
            f"tokenizer = AutoTokenizer.from_pretrained({origin!r})",
        ) + _code("sh", f"vllm serve {origin} --enable-lora --lora-modules tuned=.")
    if form == "safetensors":
        return _code(
            "python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
            f"inputs = tokenizer({prompt!r}, return_tensors='pt')",
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))",
        ) + _code("sh", "vllm serve .")
    if form == "gguf-adapter":
        return [
            *_code("sh", f"llama-server -m base.gguf --lora {ADAPTER}"),
            f"`base.gguf` stands for the base model's file, {Path(spec.base_gguf).name} on the engine's machine. "
            "For Ollama, write its path after `FROM` in `Modelfile`, then:",
            *_code("sh", "ollama create tuned -f Modelfile", "ollama run tuned"),
        ]
    server = f"llama-server -m {MODEL}"
    asked = "then POST /v1/completions" + (f' with "stop": [{json.dumps(spec.stop)}]' if spec.stop else "")
    return _code("sh", f"{server}  # {asked}" if spec.format == "completion" else server) + _code(
        "sh", "ollama create tuned -f Modelfile", "ollama run tuned"
    )


def _code(language: str, *lines: str) -> list[str]:
    return [f"```{language}", *lines, "```", ""]


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
