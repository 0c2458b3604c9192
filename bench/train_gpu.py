"""Compares our trainer on a GPU with TRL (with Liger kernels) and Unsloth, where they are installed: random weights in
the shape of Qwen3 1.7B or Llama 3.1 8B, the same rows, LoRA rank 16, each in its own process.

    python -m bench.train_gpu [--shape 1.7b] [--device cuda]

Prints tokens/s, MFU and peak memory; the last line is JSON. Without CUDA it says so and measures nothing; with
`--device cpu --shape tiny` it checks itself. MFU counts 4 · parameters + attention per token (forward, and backward
without gradients of the frozen matrices) against the GPU's dense bfloat16 peak from NVIDIA's data sheets.
Needs requirements-bench.txt; `liger-kernel` and `unsloth` are used if they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import _smoke

ROOT = Path(__file__).resolve().parents[1]
RUNS = ("ours", "trl", "unsloth")
RANK, ALPHA, SEED, RATE, STEPS, WARM_UP_STEPS = 16, 32.0, 0, 1e-4, 12, 2
# (layers, width, feed-forward width, heads, key heads, head width, vocabulary) from the models' config.json
SHAPES = {
    "tiny": (2, 64, 128, 4, 2, 16, 512),
    "1.7b": (28, 2048, 6144, 16, 8, 128, 151_936),
    "8b": (32, 4096, 14_336, 32, 8, 128, 128_256),
}
ROWS = {"tiny": (4, 32), "1.7b": (16, 1024), "8b": (8, 1024)}
"""Rows of a step, and tokens of a row."""
# TFLOP/s of dense bfloat16: NVIDIA's data sheets of H100/H200 SXM, A100, L40S and RTX 4090
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}


def main() -> None:
    """Measure, then print a table and one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=tuple(SHAPES), default="1.7b")
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--one", nargs=3, metavar=("RUN", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = _smoke.parse(
        arguments,
        modules=("torch", "transformers", "core.engine.training.trainer.loop"),
        optional=("trl", "peft", "datasets"),
    )
    import torch

    if options.one:
        run, folder, out = options.one
        measured = {"ours": _ours, "trl": _trl, "unsloth": _unsloth}[run](Path(folder), options)
        Path(out).write_text(json.dumps(measured))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device: nothing was measured.")
        print(json.dumps({"skipped": "no CUDA device"}))
        return
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options.shape)
        found = {run: _in_own_process(run, Path(folder), options) for run in RUNS if _is_installed(run)}
    _report(found, options)


def _is_installed(run: str) -> bool:
    package = {"ours": "torch", "trl": "trl", "unsloth": "unsloth"}[run]
    return importlib.util.find_spec(package) is not None


def _prepare(folder: Path, shape: str) -> None:
    """A base with random weights as a Hugging Face folder, and the rows of all steps."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    layers, width, hidden, heads, key_heads, head, words = SHAPES[shape]
    kind = "qwen3" if shape != "8b" else "llama"
    config = AutoConfig.for_model(
        kind, num_hidden_layers=layers, hidden_size=width, intermediate_size=hidden, num_attention_heads=heads,
        num_key_value_heads=key_heads, head_dim=head, vocab_size=words, max_position_embeddings=4096,
        tie_word_embeddings=shape != "8b",
    )  # fmt: skip
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / "base")
    n_rows, length = ROWS[shape]
    random = np.random.default_rng(SEED)
    np.save(folder / "rows.npy", random.integers(10, words, (STEPS * n_rows, length), dtype=np.int32))


def _in_own_process(run: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    out = folder / f"{run}.json"
    command = [sys.executable, "-m", "bench.train_gpu", "--shape", options.shape, "--device", options.device]
    subprocess.run([*command, "--one", run, str(folder), str(out)], cwd=ROOT, check=True, stdout=2)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def _ours(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    from core.engine.formats import tokens
    from core.engine.training.job_folder import JobSpec, Journal, read_lines
    from core.engine.training.trainer import device, memory, model
    from core.engine.training.trainer.loop import Loop
    from core.engine.training.trainer.resume import Position

    rows = [
        tokens.Encoded(tuple(map(int, row)), (False, *[True] * (len(row) - 1))) for row in np.load(folder / "rows.npy")
    ]
    tokens.save(folder / "train.npz", rows)
    chosen = device.choose("auto" if options.device == "cuda" else "float32", 0, print, options.device)
    tunable = model.load(folder / "base", chosen, RANK, ALPHA)
    tunable.initialise(SEED)
    file, work = folder / "train.npz", Path(tempfile.mkdtemp(dir=folder))
    n_rows, _ = ROWS[options.shape]
    spec = JobSpec("bench", folder, folder, None, file, None, 1, n_rows, RATE, SEED, RANK, ALPHA)
    train = tokens.load(file)
    loop = Loop(spec, Journal(work), tunable, train, [])
    checkpoints = memory.plan_activations(tunable, train, 1)
    loop.run(Position(), lambda: False)
    steps = list(read_lines(work / "metrics.jsonl"))
    norm = float(sum(parameter.grad.norm() for parameter in tunable.parameters()))
    seconds = sum(row["seconds"] for row in steps[WARM_UP_STEPS:])
    timed = (len(steps) - WARM_UP_STEPS) * n_rows * len(rows[0].tokens)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else 0
    return {
        "tokens_per_s": timed / seconds,
        "peak_gb": peak / 1e9,
        "losses": [row["training_loss"] for row in steps],
        "gradient_norm": norm,
        "gradient_checkpointing": checkpoints,
    }


def _trl(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16, attn_implementation="sdpa")
    tuned = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    return _with_trl(tuned, folder, options)


def _unsloth(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from unsloth import FastLanguageModel

    base, _ = FastLanguageModel.from_pretrained(str(folder / "base"), max_seq_length=2048, load_in_4bit=False)
    tuned = FastLanguageModel.get_peft_model(base, r=RANK, lora_alpha=ALPHA, use_gradient_checkpointing="unsloth")
    return _with_trl(tuned, folder, options)


def _with_trl(tuned: Any, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer with its defaults, and Liger kernels if they are installed."""
    import numpy as np
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    n_rows, length = ROWS[options.shape]
    rows = Dataset.from_list([{"input_ids": row.tolist()} for row in np.load(folder / "rows.npy")])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")))
    words.pad_token, words.eos_token = "<pad>", "<eos>"
    settings = SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=n_rows, num_train_epochs=1, learning_rate=RATE,
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, seed=SEED,
        save_strategy="no", report_to=[], max_length=None, disable_tqdm=True, use_cpu=options.device == "cpu",
        bf16=options.device == "cuda", use_liger_kernel=importlib.util.find_spec("liger_kernel") is not None,
    )  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = SFTTrainer(model=tuned, args=settings, train_dataset=rows, processing_class=words, callbacks=[Clock()])
    trainer.train()
    seconds = ends[-1] - ends[WARM_UP_STEPS - 1]
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else 0
    return {
        "tokens_per_s": (len(ends) - WARM_UP_STEPS) * n_rows * length / seconds,
        "peak_gb": peak / 1e9,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "gradient_norm": trainer.state.log_history[0].get("grad_norm"),
    }


def _report(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    import torch

    layers, width, hidden, heads, key_heads, head, words = SHAPES[options.shape]
    per_layer = width * head * 2 * (heads + key_heads) + 3 * width * hidden
    n_parameters = layers * per_layer + width * words
    attention = 2 * 2 * layers * heads * head * ROWS[options.shape][1] / 2  # scores and sums, half of them masked
    flops = 4 * n_parameters + 2 * attention
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    peak = next((tera * 1e12 for key, tera in PEAKS.items() if key in name), None)
    print(f"{name}\n{'':8} tokens/s     MFU  peak GB  first loss  last loss")
    for run, one in found.items():
        mfu = f"{one['tokens_per_s'] * flops / peak:7.3f}" if peak else "      –"
        losses = one["losses"]
        print(f"{run:8} {one['tokens_per_s']:8.0f} {mfu} {one['peak_gb']:8.2f} {losses[0]:11.4f} {losses[-1]:10.4f}")
    ours = found["ours"]
    if not ours["gradient_norm"] > 0:
        raise SystemExit("our trainer's gradient is zero")
    figures: dict[str, Any] = {"gpu": name, "tokens_per_s": round(ours["tokens_per_s"], 1)}
    if peak:
        figures["mfu"] = round(ours["tokens_per_s"] * flops / peak, 3)
    for rival in [run for run in found if run != "ours"]:
        figures[f"tokens_per_s_vs_{rival}"] = round(ours["tokens_per_s"] / found[rival]["tokens_per_s"], 3)
        figures[f"first_loss_gap_vs_{rival}"] = round(abs(ours["losses"][0] / found[rival]["losses"][0] - 1), 4)
        if options.device == "cuda":
            figures[f"peak_memory_vs_{rival}"] = round(ours["peak_gb"] / found[rival]["peak_gb"], 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
