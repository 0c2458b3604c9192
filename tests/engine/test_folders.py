"""What a model's folder holds is what is trained and served, however it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from core.engine.bases import check, llama_probe  # noqa: E402
from core.engine.formats import folder_converter, hf_folder  # noqa: E402
from core.engine.training.trainer import device, model  # noqa: E402
from tests.support.tiny_folders import FAMILIES, TinyFolder  # noqa: E402

_LENGTH = 40
_NEAR = 0.02  # nats, as in test_families.py
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_QWEN2, _QWEN3, _LLAMA, _GEMMA4 = (FAMILIES[name] for name in ("qwen2", "qwen3", "llama2", "gemma4, 12B"))


def _nothing(folder: Path) -> None:
    pass


def _rewrite(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)

    return rewrite


def _beyond_float16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values that bfloat16 holds and float16 rounds to 0, in the first row of every matrix."""
    for tensor in tensors.values():
        if tensor.dim() > 1:
            tensor[0] *= 1e-9
    return tensors


def _with_a_stored_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some folders store a head that is the embedding too."""
    return {**tensors, _HEAD: tensors[_EMBEDDING].clone()}


def _with_images(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model that also reads images, and hears."""
    language = {
        name if name == _HEAD else name.replace("model.", "model.language_model."): tensor
        for name, tensor in tensors.items()
    }
    others = (
        "model.vision_tower.patch.weight",
        "model.embed_audio.embedding_projection.weight",
        "model.projector.weight",
    )
    return {**language, **{name: torch.ones(3, 5) for name in others}}


def _with_added_tokens(folder: Path) -> None:
    """Two tokens after the vocabulary: one that is shown, and one that is not."""
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    first = max(raw["model"]["vocab"].values()) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for number, (text, special) in enumerate({"<tool>": False, "<|extra|>": True}.items()):
        raw["added_tokens"].append({"id": first + number, "content": text, "special": special, **flags})
    file.write_text(json.dumps(raw), encoding="utf-8")


@dataclass(frozen=True)
class Stored:
    """How a folder is stored.

    Attributes:
        shard: size of a file of weights.
        text: is split into tokens as the folder's own tokenizer does.
    """

    family: TinyFolder
    dtype: str = "bfloat16"
    shard: str = "1GB"
    change: Callable[[Path], None] = _nothing
    text: str = check.TEXT


_FOLDERS: Mapping[str, Stored] = {
    "bfloat16": Stored(_QWEN3, change=_rewrite(_beyond_float16)),
    "float16": Stored(_LLAMA, "float16"),
    "float32": Stored(_LLAMA, "float32"),
    "several files and their index": Stored(_LLAMA, shard="100KB"),
    "tied": Stored(replace(_QWEN2, sizes={"tie_word_embeddings": True})),
    "untied, biases": Stored(replace(_QWEN2, sizes={"tie_word_embeddings": False})),
    "tied, and the head is stored": Stored(_QWEN3, change=_rewrite(_with_a_stored_copy)),
    "heads wider than width / heads": Stored(replace(_QWEN3, sizes={"head_dim": 48})),
    "heads narrower than width / heads": Stored(replace(FAMILIES["gemma3"], sizes={
        **FAMILIES["gemma3"].sizes, "head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 2})),
    "more rows than tokens": Stored(replace(_QWEN3, padding=37)),
    "added tokens": Stored(
        replace(_QWEN3, padding=5), change=_with_added_tokens, text="The <tool> of<|extra|>a hero<tool><|im_end|>."
    ),
    "added tokens by characters": Stored(
        replace(_LLAMA, padding=5), change=_with_added_tokens, text="The <tool>of<|extra|>a hero<tool>."
    ),
    "beside other parts": Stored(_LLAMA, change=_rewrite(_with_images)),
    "an embedding for each layer, beside other parts": Stored(
        FAMILIES["gemma4, E2B"], change=_rewrite(_with_images)
    ),
    "values that are keys": Stored(
        replace(_GEMMA4, model_type="gemma4_text", sizes={**_GEMMA4.sizes, "hidden_size_per_layer_input": 0})
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _FOLDERS)
def test_the_folders_weights_are_trained_and_served(name: str, tmp_path: Path) -> None:
    stored = _FOLDERS[name]
    folder = stored.family.write(tmp_path / "model", dtype=stored.dtype, shard=stored.shard)
    stored.change(folder)
    own = _own_tensors(folder)
    place = device.cpu(torch.bfloat16 if stored.dtype == "bfloat16" else torch.float32)
    tunable = model.load(folder, place, 4, 8.0)
    assert {part.dtype for part in (tunable.embedding, *(layer.weight for layer in tunable.lora.values()))} == {
        place.dtype
    }
    trained = _trained_tensors(tunable)
    assert own.keys() == trained.keys()
    assert [key for key in own if not torch.equal(own[key].float(), trained[key].float())] == []
    _assert_served(folder, stored)


def _assert_served(folder: Path, stored: Stored) -> None:
    """llama.cpp has the trainer's probabilities and the folder's tokens, in the file converted from the folder."""
    from tokenizers import Tokenizer

    folder_converter.convert(hf_folder.open_folder(folder), folder / "model.gguf")
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(0)
    first, words = len(stored.family.special) + 10, tunable.head.shape[0] - stored.family.padding
    text = [first, *np.random.default_rng(1).integers(first, words, _LENGTH - 1).tolist()]
    with torch.no_grad():
        ours = torch.log_softmax(tunable.logits(tunable.hidden(torch.tensor([text]))[0]), dim=1).numpy()
    with llama_probe.loaded(folder / "model.gguf", threads=1) as probe:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert probe.tokens(stored.text) == tokenizer.encode(stored.text, add_special_tokens=False).ids
        served = probe.log_probabilities(text, 20, probe.tokens("a")[-1])
    assert max(abs(float(ours[-1][token]) - value) for token, value in served.items()) < _NEAR


def _own_tensors(folder: Path) -> dict[str, Tensor]:
    """The language model's tensors as the safetensors library reads them; without a head that is the embedding."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    if any(name.startswith("model.language_model.") for name in tensors):
        kept = {name: tensor for name, tensor in tensors.items() if "language_model" in name or name == _HEAD}
        tensors = {name.replace("language_model.", ""): tensor for name, tensor in kept.items()}
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        tensors.pop(_HEAD, None)
    return tensors


def _trained_tensors(tunable: model.TunableModel) -> dict[str, Tensor]:
    """The trainer's frozen tensors, by their names in the folder."""
    tensors = {_EMBEDDING: tunable.embedding}
    if tunable.head is not tunable.embedding:
        tensors[_HEAD] = tunable.head
    for name, layer in tunable.lora.items():
        tensors[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            tensors[f"{name}.bias"] = layer.bias
    if tunable.layer_embedding is not None:
        tensors["model.embed_tokens_per_layer.weight"] = tunable.layer_embedding.table
    frozen = {name: part for name, part in tunable.body.state_dict().items() if "lora_" not in name}
    return tensors | {f"model.{name}": part for name, part in frozen.items()}
