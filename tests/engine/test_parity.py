"""The trained model is the served one: the trainer's probabilities equal llama.cpp's, or the file is rejected.

llama.cpp is the server that the engine runs, in its own process. It returns the probabilities of every next token after
prefixes of one long random text.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from openai import BadRequestError  # noqa: E402

from core.engine.formats import base_config, folder_converter, gguf_file, hf_folder, vocabulary, weights  # noqa: E402
from core.engine.formats.base_config import UntrainableModel  # noqa: E402
from core.engine.training.trainer import device, model  # noqa: E402
from core.providers import Client, Provider  # noqa: E402
from tests.support import tiny_gemma  # noqa: E402
from tests.support.engine_process import TINY, TOKEN, finished, jsonl, running, upload  # noqa: E402
from tests.support.tiny_folders import FAMILIES  # noqa: E402
from tests.support.tiny_models import CONTEXT, TinyModel  # noqa: E402
from tests.support.waiting import WAIT_LIMIT_S  # noqa: E402

_LENGTH = 300  # tokens: longer than the windows and original contexts of the models below
_PLACES = (5, 63, 64, 65, 130, 200, 299)
_NEAR = 0.02  # tolerance of a log-probability; llama.cpp keeps keys and values as float16
_LETTER = next(number for number, (text, *_) in enumerate(tiny_gemma.vocabulary()) if text == "a")

_LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}
_BIASED = ("attn_q", "attn_k", "attn_v")


def _gemma(**changes: Any) -> TinyModel:
    return TinyModel("gemma3", **{"layers": 7, **changes})


def _qwen2(**changes: Any) -> TinyModel:
    return TinyModel("qwen2", **{"biases": _BIASED, **changes})


def _qwen3(**changes: Any) -> TinyModel:
    return TinyModel("qwen3", **{"head": 32, **changes})


_TRAINABLE = {
    "gemma3": _gemma(),
    "gemma3, head of 256": _gemma(head=256, heads=2, kv_heads=1),
    "gemma3, untied": _gemma(tied=False),
    "gemma3, linear scaling": _gemma(keys=_LINEAR),
    "gemma3, linear scaling without its type": _gemma(keys={"rope.scaling.factor": 8.0}),
    "gemma3, linear scaling by its old name": _gemma(keys={"rope.scale_linear": 8.0}),
    "gemma3, a factor and no scaling": _gemma(keys={"rope.scaling.type": "none"}),
    "gemma3, 62 layers: the scale of 27B": _gemma(layers=62, heads=2, kv_heads=1, head=48, width=32),
    "gemma3, another base": _gemma(keys={"rope.freq_base": 20_000.0}),
    "gemma3, without a base": _gemma(keys={"rope.freq_base": None}),
    "gemma3, another local base": _gemma(keys={"rope.freq_base_swa": 500.0}),
    "gemma3, another window": _gemma(keys={"attention.sliding_window": 17}),
    "gemma3, without a window": _gemma(keys={"attention.sliding_window": None}),
    "gemma3, another period": _gemma(keys={"attention.sliding_window_pattern": 3}),
    "gemma3, local layers only": _gemma(keys={"attention.sliding_window_pattern": 0}),
    "gemma3, biases": _gemma(biases=_BIASED),
    "gemma3, a pattern of its own": _gemma(
        keys={"attention.sliding_window_pattern": [True, False, True, True, False, True, False]}
    ),
    "gemma3, another epsilon": _gemma(keys={"attention.layer_norm_rms_epsilon": 0.1}),
    "gemma3, as many keys as queries": _gemma(kv_heads=4, keys={"attention.head_count_kv": None}),
    "gemma3, more words than the text needs": _gemma(padding=37),
    "gemma3, one number a layer": _gemma(keys={"feed_forward_length": [128] * 7}),
    "gemma3, keys without effect": _gemma(
        keys={"vocab_size": 1, "rope.scaling.finetuned": True, "final_logit_softcapping": 0.0, "mm.tokens": 256}
    ),
    "qwen2": _qwen2(),
    "qwen2, untied": _qwen2(tied=False),
    "qwen2, linear scaling": _qwen2(keys=_LINEAR),
    "qwen2, yarn": _qwen2(keys=_YARN),
    "qwen2, without a base": _qwen2(keys={"rope.freq_base": None}),
    "qwen2, without biases": _qwen2(biases=()),
    "qwen3": _qwen3(),
    "qwen3, biases": _qwen3(biases=_BIASED),
    "qwen3, head of 128": _qwen3(head=128),
    "qwen3, untied, an odd head": _qwen3(head=40, tied=False),
    "qwen3, a head of its width": _qwen3(head=16, keys={"attention.key_length": None, "attention.value_length": None}),
    "qwen3, linear scaling": _qwen3(keys=_LINEAR),
    "qwen3, yarn": _qwen3(keys=_YARN),
    "qwen3, yarn with its numbers": _qwen3(
        keys={**_YARN, "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0}
    ),
    "qwen3, another epsilon": _qwen3(keys={"attention.layer_norm_rms_epsilon": 0.05}),
}


@pytest.mark.parametrize("name", _TRAINABLE)
def test_the_trainer_has_the_servers_probabilities(name: str, tmp_path: Path) -> None:
    gguf = _TRAINABLE[name].write(tmp_path / "tiny.gguf")
    words = len(tiny_gemma.vocabulary()) + _TRAINABLE[name].padding
    text = [2, *np.random.default_rng(1).integers(10, len(tiny_gemma.vocabulary()), _LENGTH - 1).tolist()]
    ours = _log_probabilities(_loaded(gguf, tmp_path / "weights"), text)
    with _llama(gguf) as llama:
        for place in _PLACES:
            theirs = _of_llama(llama, text[: place + 1], words)
            assert np.abs(ours[place] - theirs).max() < _NEAR, f"after {place + 1} tokens"


@pytest.mark.parametrize("name", ["gemma3, linear scaling", "qwen2, untied", "qwen3, untied, an odd head"])
def test_a_tuned_model_has_the_servers_probabilities(name: str, tmp_path: Path) -> None:
    gguf, text = _TRAINABLE[name].write(tmp_path / "tiny.gguf"), list(range(2, 120))
    tunable = _loaded(gguf, tmp_path / "weights")
    before = _log_probabilities(tunable, text)
    generator = torch.Generator().manual_seed(5)
    for layer in tunable.lora.values():
        layer.lora_b.data = torch.randn(layer.lora_b.shape, generator=generator) / 50
    gguf_file.write_adapter(tmp_path / "adapter.gguf", tunable.adapter())
    ours = _log_probabilities(tunable, text)
    assert np.abs(ours[-1] - before[-1]).max() > 10 * _NEAR  # the adapter has an effect
    with _llama(gguf, tmp_path / "adapter.gguf") as llama:
        assert np.abs(ours[-1] - _of_llama(llama, text, len(tiny_gemma.vocabulary()))).max() < _NEAR


@pytest.mark.parametrize("family", ["gemma3", "llama2", "mistral-nemo", "qwen3", "smollm2"])
def test_each_token_of_the_vocabulary_writes_what_llama_cpp_writes(family: str, tmp_path: Path) -> None:
    folder, gguf = FAMILIES[family].write(tmp_path / "model"), tmp_path / "model.gguf"
    folder_converter.convert(hf_folder.open_folder(folder), gguf)
    words = vocabulary.read(gguf)
    ours = {token: words.bytes_of(token) for token in range(len(words.raw))}
    letter = next(token for token, raw in ours.items() if raw == b"a")
    with _llama(gguf) as llama:
        theirs = {one["id"]: bytes(one["bytes"]) for one in _next_tokens(llama, [letter], len(ours), letter)}
    assert ours == theirs
    names = {words.bytes_of(token, words.silent) for token in words.silent}
    assert {name.encode() for name in FAMILIES[family].special if name != "<unk>"} <= names
    assert words.bytes_of(len(ours)) == b""  # padding


_REFUSED = {
    "rope.scaling.type": (_qwen3(keys={"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}), "longrope"),
    "rope.scaling.type of gemma3": (_gemma(keys=_YARN), "gemma3.rope.scaling.type is 'yarn'"),
    "rope.scaling.attn_factor": (_qwen3(keys={**_YARN, "rope.scaling.attn_factor": 0.5}), "qwen3.rope.scaling.attn"),
    "rope.scaling.yarn_ext_factor": (_qwen3(keys={**_YARN, "rope.scaling.yarn_ext_factor": 0.5}), "yarn_ext_factor"),
    "rope.scaling.yarn_beta_fast": (_qwen3(keys={**_YARN, "rope.scaling.yarn_beta_fast": 16.0}), "yarn_beta_fast"),
    "rope.dimension_count": (_qwen3(keys={"rope.dimension_count": 16}), "only 32 is supported"),
    "attention.key_length of qwen2": (
        _qwen2(head=24, keys={"attention.key_length": 24, "attention.value_length": 24}),
        "qwen2.attention.key_length is 24; llama.cpp loads only 16",
    ),
    "attention.value_length": (_qwen3(keys={"attention.value_length": 16}), "qwen3.attention.value_length is 16"),
    "final_logit_softcapping": (_gemma(keys={"final_logit_softcapping": 30.0}), "gemma3.final_logit_softcapping"),
    "attn_logit_softcapping": (_gemma(keys={"attn_logit_softcapping": 50.0}), "gemma3.attn_logit_softcapping"),
    "attention.causal": (_gemma(keys={"attention.causal": False}), "gemma3.attention.causal is False"),
    "attention.scale": (_gemma(keys={"attention.scale": 0.1}), "gemma3.attention.scale"),
    "attention.sliding_window of qwen2": (_qwen2(keys={"attention.sliding_window": 64}), "qwen2.attention.sliding"),
    "a pattern that is too short": (_gemma(keys={"attention.sliding_window_pattern": [True] * 3}), "has 7 layers"),
    "numbers that differ": (_gemma(keys={"feed_forward_length": [128] * 6 + [64]}), "differs between layers"),
    "expert_count": (_qwen3(keys={"expert_count": 8}), "qwen3.expert_count is 8"),
    "a key of tomorrow": (_qwen3(keys={"attention.sinks": 4}), "qwen3.attention.sinks is 4; this key is not supported"),
    "block_count": (_qwen3(keys={"block_count": None}), "has no key qwen3.block_count"),
    "rope_freqs": (_qwen3(extra={"rope_freqs.weight": (16,)}), "tensor rope_freqs.weight"),
    "a bias of the output": (_qwen2(biases=(*_BIASED, "attn_output")), "tensor blk.0.attn_output.bias"),
    "a bias of the network": (_qwen3(biases=("ffn_up",)), "tensor blk.0.ffn_up.bias"),
    "a bias of the head": (_qwen2(tied=False, extra={"output.bias": (454,)}), "tensor output.bias"),
    "a bias of a norm": (_qwen3(extra={"output_norm.bias": (64,)}), "tensor output_norm.bias"),
    "norms of queries in qwen2": (_qwen2(extra={"blk.0.attn_q_norm.weight": (16,)}), "tensor blk.0.attn_q_norm"),
    "another architecture": (TinyModel("llama"), "general.architecture is 'llama'; only gemma3"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_computed_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    tiny, says = _REFUSED[name]
    gguf = tiny.write(tmp_path / "tiny.gguf")
    with pytest.raises(UntrainableModel, match=says):
        base_config.read(gguf)
    with pytest.raises(UntrainableModel, match=says):
        weights.convert(gguf, tmp_path / "weights", lambda _: None)
    assert not (tmp_path / "weights").exists()


def test_weights_that_an_earlier_version_converted_get_the_right_configuration(tmp_path: Path) -> None:
    gguf, folder = _gemma(keys=_LINEAR).write(tmp_path / "tiny.gguf"), tmp_path / "weights"
    weights.convert(gguf, folder, lambda _: None)
    right, changed = (folder / "config.json").read_text(), (folder / "weights.safetensors").stat().st_mtime_ns
    (folder / "config.json").write_text('{"model_type": "gemma3_text"}')
    weights.convert(gguf, folder, lambda _: None)
    assert (folder / "config.json").read_text() == right
    assert (folder / "weights.safetensors").stat().st_mtime_ns == changed


def test_a_job_on_a_base_that_is_only_served_is_refused_with_the_key(tmp_path: Path) -> None:
    base = _gemma(keys={"final_logit_softcapping": 30.0}).write(tmp_path / "tiny.gguf")
    with running(tmp_path / "home", base) as engine:
        client = engine.client()
        file_id = upload(client, jsonl([{"prompt": "a", "completion": "b"}] * 10))
        with pytest.raises(BadRequestError) as refused:
            client.fine_tuning.jobs.create(model=TINY, training_file=file_id)
        studio = Client(Provider("engine", "engine", "The engine", engine.url, TOKEN))
        not_trainable = {one.id: one.not_trainable for one in studio.models()}
        assert studio.model(TINY).not_trainable == not_trainable[TINY]
    assert refused.value.code == "model_not_trainable"
    assert "gemma3.final_logit_softcapping is 30.0" in refused.value.message
    # so the form shows it before the job is submitted
    assert "gemma3.final_logit_softcapping is 30.0" in (not_trainable[TINY] or "")
    assert not_trainable["gemma-3-270m"] is None


def test_a_head_of_another_width_trains_and_serves(tmp_path: Path) -> None:
    base = _qwen3(head=40, tied=False).write(tmp_path / "tiny.gguf")
    with running(tmp_path / "home", base) as engine:
        client = engine.client()
        file_id = upload(client, jsonl([{"prompt": "a", "completion": "bcd"}] * 10))
        job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=file_id).id)
        assert job.status == "succeeded", job.error
        assert client.completions.create(model=job.fine_tuned_model or "", prompt="a", max_tokens=4).usage is not None


def _loaded(gguf: Path, folder: Path) -> model.TunableModel:
    """The base model in the trainer, with an adapter that has no effect."""
    weights.convert(gguf, folder, lambda _: None)
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(0)
    return tunable


def _log_probabilities(tunable: model.TunableModel, text: list[int]) -> np.ndarray:
    """Log-probabilities of every token after every prefix of `text`, [length, words]."""
    with torch.no_grad():
        hidden = tunable.hidden(torch.tensor([text]))[0]
        logits: np.ndarray = torch.log_softmax(tunable.logits(hidden), dim=1).numpy()
    return logits


def _of_llama(client: httpx2.Client, text: list[int], words: int) -> np.ndarray:
    """Log-probabilities of every token after `text`."""
    found = np.full(words, np.nan)
    for one in _next_tokens(client, text, words, _LETTER):
        found[one["id"]] = one["logprob"]
    assert not np.isnan(found).any()
    return found


def _next_tokens(client: httpx2.Client, text: list[int], words: int, letter: int) -> list[dict[str, Any]]:
    """llama.cpp's list of the tokens after `text`; a partial character instead of `letter` would come without one."""
    body = {
        "prompt": text,
        "n_predict": 1,
        "n_probs": words,
        "temperature": 0,
        "cache_prompt": True,
        "logit_bias": [[letter, 1000]],
    }
    answer = client.post("/completion", json=body)
    answer.raise_for_status()
    entries: list[dict[str, Any]] = answer.json()["completion_probabilities"][0]["top_logprobs"]
    return entries


@contextmanager
def _llama(gguf: Path, adapter: Path | None = None) -> Iterator[httpx2.Client]:
    orders = {
        "model": str(gguf), "adapter": adapter and str(adapter), "key": "key", "parallel": 1, "context": CONTEXT,
        "cache_mib": 16, "threads": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "core.engine.serving.llama_child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert "url" in answer, answer
        headers = {"authorization": "Bearer key"}
        with httpx2.Client(base_url=answer["url"], headers=headers, timeout=WAIT_LIMIT_S, trust_env=False) as client:
            yield client
        process.stdin.close()
