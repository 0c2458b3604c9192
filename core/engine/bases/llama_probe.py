"""Loads a model in llama.cpp, in its own process, to get token ids and probabilities.

Used to check a base model before it is offered; clients' requests go through `core.engine.serving.llama`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from core.engine import child_processes
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_CONTEXT = 512  # tokens; enough for the text used in the check
_TIMEOUT_S = 600.0  # allows for reading a large model from a cold disk
_FORCED = 1000.0  # bias for the token to be generated, so that it is a complete character


class LlamaProbe:
    """One loaded model."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without BOS. Special tokens in the text are parsed as such."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def prompt_tokens(self, text: str) -> list[int]:
        """Token ids of a prompt, as for a request: with BOS if the tokenizer adds one."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def log_probabilities(self, prompt: Sequence[int], count: int, forced: int) -> dict[int, float]:
        """The `count` most likely next tokens after `prompt` and their log-probabilities.

        Args:
            forced: a token that is a complete character; llama.cpp returns no probabilities for an incomplete one.
        """
        body = {
            "prompt": list(prompt), "n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": True,
            "logit_bias": [[forced, _FORCED]],
        }  # fmt: skip
        found = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return {int(one["id"]): float(one["logprob"]) for one in found}

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Generate `count` tokens after `prompt`, choosing the most likely one each time."""
        body = {
            "prompt": list(prompt), "n_predict": count, "temperature": 0, "cache_prompt": False, "return_tokens": True,
            "ignore_eos": True,
        }  # fmt: skip
        return [int(token) for token in self._post("/completion", body)["tokens"]]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._client.post(path, json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def loaded(gguf: Path, threads: int, adapter: Path | None = None) -> Iterator[LlamaProbe]:
    """Load a GGUF file, with or without an adapter.

    Raises:
        UnusableModel: llama.cpp cannot load it.
    """
    options = {
        "model": str(gguf), "adapter": adapter and str(adapter), "key": "probe", "parallel": 1, "context": _CONTEXT,
        "cache_mib": 0, "threads": threads,
    }  # fmt: skip
    command = child_processes.command("core.engine.serving.llama_child")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_processes.environment()
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(options).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line else {}
            if "url" not in answer:
                raise _not_loadable(gguf, str(answer.get("error") or ""))
            headers = {"authorization": "Bearer probe"}
            with httpx2.Client(base_url=answer["url"], headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:
                yield LlamaProbe(client)
        finally:
            process.kill()


def _not_loadable(gguf: Path, error: str) -> UnusableModel:
    detail = error.strip() or msg("it ended without a message; memory may have run out")
    return UnusableModel(
        "not_loadable",
        msg("llama.cpp cannot load {name}: {detail}.", name=gguf.name, detail=detail),
        msg("Choose another model or a smaller one, or update xllamacpp: newer versions support more models."),
    )
