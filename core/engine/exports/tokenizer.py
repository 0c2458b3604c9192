"""The tokenizer files of a merged model: the base folder's own, or those that transformers derives from a GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path

from core.engine.bases import check as base_check
from core.engine.bases.llama_probe import LlamaProbe

_COPIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
)
_CACHE = "tokenizer"


def write(gguf: Path, folder: Path | None, weights_dir: Path, target: Path) -> None:
    """Write the tokenizer to the folder `target`.

    Args:
        gguf: the base's file; its tokenizer is converted once, which takes minutes for a large vocabulary.
        folder: the base in Hugging Face's format; None if there is only the GGUF file.
        weights_dir: the folder of the converted weights, which also keeps the converted tokenizer.
    """
    source = folder if folder is not None else _converted(gguf, weights_dir / _CACHE)
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def check(folder: Path, probe: LlamaProbe) -> None:
    """Raise UnusableModel if llama.cpp splits a text into different tokens than the exported tokenizer."""
    base_check.check_tokenizer(probe, folder)


def _converted(gguf: Path, cache: Path) -> Path:
    if not (cache / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        shutil.rmtree(cache, ignore_errors=True)
        partial = cache.with_name(_CACHE + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(partial))
        partial.rename(cache)
    return cache
