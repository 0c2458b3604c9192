"""Families by rule: for a tiny random model of each, the trainer, transformers and llama.cpp compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases import check, llama_probe  # noqa: E402
from core.engine.formats import folder_converter, gguf_file, hf_folder  # noqa: E402
from core.engine.training.trainer import device, model  # noqa: E402
from tests.support.tiny_folders import FAMILIES  # noqa: E402

_LENGTH = 200  # tokens: longer than Gemma's window and the original contexts of stretched models
_PLACES = (5, 64, 130, 200)
_NEAR = 0.02  # nats; llama.cpp keeps keys, values and products as float16
_COUNT = 50  # compared next tokens


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and a folder with a tiny model of it, converted."""
    folder = FAMILIES[request.param].write(tmp_path_factory.mktemp("family") / "model")
    folder_converter.convert(hf_folder.open_folder(folder), folder / "model.gguf")
    return request.param, folder


def _transformers(folder: Path, text: list[int]) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        logits: np.ndarray = torch.log_softmax(whole(torch.tensor([text])).logits[0].float(), dim=1).numpy()
    return logits


def _trainer(tunable: model.TunableModel, text: list[int]) -> np.ndarray:
    with torch.no_grad():
        hidden = tunable.hidden(torch.tensor([text]))[0]
        logits: np.ndarray = torch.log_softmax(hidden @ tunable.head.T, dim=1).numpy()
    return logits


def test_trainer_transformers_and_llama_cpp_have_the_same_probabilities(
    family: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = family
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(0)
    words = tunable.head.shape[0]
    first = len(FAMILIES[name].special) + 10
    text = [first, *np.random.default_rng(1).integers(first, words, _LENGTH - 1).tolist()]
    ours, theirs = _trainer(tunable, text), _transformers(folder, text)
    assert np.abs(ours - theirs).max() < _NEAR
    with llama_probe.loaded(folder / "model.gguf", threads=1) as probe:
        check.check_tokenizer(probe, folder)
        forced = probe.tokens("a")[-1]
        for place in _PLACES:
            served = probe.log_probabilities(text[:place], _COUNT, forced)
            difference = max(abs(float(ours[place - 1][token]) - value) for token, value in served.items())
            assert difference < _NEAR, f"after {place} tokens"
    generator = torch.Generator().manual_seed(5)
    for layer in tunable.lora.values():
        layer.lora_b.data = torch.randn(layer.lora_b.shape, generator=generator) / 50
    adapted = _trainer(tunable, text)
    assert np.abs(adapted[-1] - ours[-1]).max() > 10 * _NEAR  # the adapter has an effect
    gguf_file.write_adapter(tmp_path / "adapter.gguf", tunable.adapter())
    with llama_probe.loaded(folder / "model.gguf", threads=1, adapter=tmp_path / "adapter.gguf") as probe:
        for place in _PLACES:
            served = probe.log_probabilities(text[:place], _COUNT, forced)
            difference = max(abs(float(adapted[place - 1][token]) - value) for token, value in served.items())
            assert difference < _NEAR, f"adapted, after {place} tokens"
    again = model.load(folder, device.cpu(), 4, 8.0)
    again.load(gguf_file.read_adapter(tmp_path / "adapter.gguf"))
    assert np.abs(_trainer(again, text) - adapted).max() < _NEAR
