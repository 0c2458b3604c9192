"""The base model with its adapter: transformers' layers, with custom linear layers and output head.

Low-rank adaptation of frozen linear layers: W x + (alpha / rank) · B (A x). Hu et al. 2021, arXiv:2106.09685, section
4.1: A is initialised randomly and B with zeros, so training starts from the base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.engine.formats import folder_converter, gguf_keys, hf_folder
from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.gguf_file import Adapter
from core.engine.formats.hf_folder import StoredTensor
from core.engine.formats.unusable_model import UnusableModel
from core.engine.training.trainer import frozen
from core.engine.training.trainer.device import Device
from core.engine.training.trainer.frozen import Bits, Packing
from core.engine.training.trainer.head import capped
from core.engine.training.trainer.packing import Example, Row, micro_batches
from core.engine.training.trainer.ranks import ALONE, Ranks
from core.engine.training.trainer.sharding import LayerSplit
from core.message import msg

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LAYER_EMBEDDING = "model.embed_tokens_per_layer.weight"
_ATTENTION = frozenset({"full_attention", "sliding_attention"})
# Model settings that are not implemented here, with their neutral values.
_NEUTRAL_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "attn_logit_softcapping": (None, 0, 0.0),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
}


class LoraLinear(nn.Module):
    """A frozen matrix (float32, bfloat16, or quantised) with a trainable low-rank update (float32)."""

    def __init__(
        self, base: nn.Linear, weight: Tensor, rank: int, alpha: float, packing: Packing | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.packing = packing
        self.bias = None if base.bias is None else base.bias.detach()
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=weight.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=weight.device))

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise A with Kaiming-uniform values, as peft and the paper's code do (bound 1/√in), and B with zeros.

        The random values are generated on the CPU, so that they are the same on every device.
        """
        bound = 1 / math.sqrt(self.lora_a.shape[1])
        with torch.no_grad():
            self.lora_a.copy_(torch.empty(self.lora_a.shape).uniform_(-bound, bound, generator=generator))
            self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenPlusLowRank.apply(x, self.weight, self.packing, self.lora_a, self.lora_b, self.scale)
        return out if self.bias is None else out + self.bias


class _FrozenPlusLowRank(torch.autograd.Function):
    """The forward and backward pass as one autograd node instead of five, without a gradient for the frozen matrix."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, packing: Packing | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down = flat @ a.T
        matrix = weight if packing is None else packing.expanded(weight)
        out = (flat.to(matrix.dtype) @ matrix.T).float()
        out.addmm_(down, b.T, alpha=scale)
        ctx.save_for_backward(flat, down, a, b)
        # not saved: it is never changed, and freed in the meantime if its layer is split
        ctx.weight, ctx.packing, ctx.scale = weight, packing, scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, down, a, b = ctx.saved_tensors
        matrix = ctx.weight if ctx.packing is None else ctx.packing.expanded(ctx.weight)
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        up = (grad @ b) * ctx.scale
        grad_a = up.T @ flat
        grad_b = (grad.T @ down) * ctx.scale
        grad_x = (grad.to(matrix.dtype) @ matrix).float()
        grad_x.addmm_(up, a)
        return grad_x.view(*grads[0].shape[:-1], -1), None, None, grad_a, grad_b, None


@dataclass(frozen=True, slots=True)
class GgufMatrix:
    """An adapted matrix's place in GGUF: its tensor's name, and the order of its rows (None: as in transformers)."""

    name: str
    order: NDArray[np.int64] | None


@dataclass(frozen=True)
class LayerEmbedding:
    """A second embedding that provides one vector for each layer to add (Gemma 4).

    Attributes:
        table: [vocabulary, layers × width], in the compute dtype.
        scale: factor by which its vectors are multiplied.
        layers: number of layers.
    """

    table: Tensor
    scale: float
    layers: int

    def of(self, ids: Tensor) -> Tensor:
        """Vectors for `ids` [batch, length], as float32 [batch, length, layers, width]."""
        packed = nn.functional.embedding(ids, self.table).float() * self.scale
        return packed.view(*ids.shape, self.layers, -1)


@dataclass(eq=False)
class TunableModel:
    """A frozen decoder with LoRA layers, and its frozen head.

    Attributes:
        body: transformers' decoder; takes `inputs_embeds` [batch, length, width] and returns hidden states.
        embedding: [vocabulary, width], in the compute dtype.
        embedding_scale: factor by which the embeddings are multiplied (√width for Gemma).
        head: [vocabulary, width]; the same tensor as `embedding` if the two are tied.
        lora: module name → layer.
        matrices: module name → location of the layer's matrix in GGUF.
        architecture: llama.cpp's name for the architecture.
        device: the device of all its tensors.
        layer_embedding: the second embedding, for families that have one.
        logit_cap: see `core.engine.training.trainer.head.cross_entropy`.
        packs: whether a row may have several texts: every layer reads other tokens only through its attention mask.
        split_over: the processes that its layers' matrices are split over (`sharding`).
    """

    body: nn.Module
    embedding: Tensor
    embedding_scale: float
    head: Tensor
    lora: dict[str, LoraLinear]
    matrices: dict[str, GgufMatrix]
    architecture: str
    device: Device
    layer_embedding: LayerEmbedding | None = None
    logit_cap: float | None = None
    packs: bool = True
    split_over: Ranks = ALONE

    def micro_batches(self, examples: Sequence[Example]) -> list[list[Row]]:
        """Divide examples into micro-batches that suit the device; see `aligned`."""
        device = self.device
        return self.aligned(
            micro_batches(examples, batch_tokens=device.batch_tokens, row_tokens=device.row_tokens, packs=self.packs)
        )

    def aligned(self, batches: list[list[Row]]) -> list[list[Row]]:
        """Add micro-batches without texts until there are as many as in the process that has the most. If the layers
        are split, each process takes part in every pass of the others.
        """
        return batches + [[] for _ in range(self.split_over.highest(len(batches)) - len(batches))]

    def hidden(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """Final hidden states [rows, length, width] of right-padded `ids` [rows, length]. Padding follows the tokens,
        so the causal mask is sufficient.

        Args:
            places: positions, [rows, length], which begin again where the next text of a row begins; only if `packs`.
        """
        embedded = nn.functional.embedding(ids, self.embedding).float() * self.embedding_scale
        more = {} if self.layer_embedding is None else {"per_layer_inputs": self.layer_embedding.of(ids)}
        out: Tensor = self.body(inputs_embeds=embedded, position_ids=places, use_cache=False, **more).last_hidden_state
        return out

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self._layers())

    @property
    def largest_layer_bytes(self) -> int:
        """Bytes of the adapted matrices of the layer that has the most, whether they are split or not."""
        layers = ([part.weight for part in layer.modules() if isinstance(part, LoraLinear)] for layer in self._layers())
        sizes: list[int] = [sum(weight.numel() * weight.itemsize for weight in weights) for weights in layers]
        return max(sizes)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.embedding.shape[1])

    def checkpoint_activations(self) -> None:
        """Compute each layer's activations again in the backward pass instead of keeping them: about a third more time,
        and memory for one layer instead of all.
        """
        for layer in self._layers():
            getattr(layer, "mlp", layer).__dict__.pop("forward", None)  # once is enough
            _checkpoint(layer)

    def checkpoint_mlps(self) -> None:
        """Compute only what is inside of each MLP again: half of a layer's activations, for a tenth more time."""
        for layer in self._layers():
            if isinstance(mlp := getattr(layer, "mlp", None), nn.Module):
                _checkpoint(mlp)

    def _layers(self) -> list[nn.Module]:
        return list(self.body.get_submodule("layers").children())

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] for hidden states, as float32. Use it only for a few positions; training uses
        `cross_entropy`.
        """
        return capped(hidden.float() @ self.head.float().T, self.logit_cap)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable parameters: A and B of every layer."""
        for layer in self.lora.values():
            yield layer.lora_a
            yield layer.lora_b

    def initialise(self, seed: int) -> None:
        """Initialise a new adapter, deterministically from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.lora.values():
            layer.initialise(generator)

    def adapter(self) -> Adapter:
        """Return a copy of the current adapter, with rows in llama.cpp's order."""
        layer = next(iter(self.lora.values()))
        layers = {}
        for module, part in self.lora.items():
            matrix, a, b = self.matrices[module], part.lora_a.detach().cpu().numpy(), part.lora_b.detach().cpu().numpy()
            layers[matrix.name] = (a.copy(), b.copy() if matrix.order is None else b[matrix.order])
        return Adapter(self.architecture, layer.scale * layer.lora_a.shape[0], layers)

    def load(self, adapter: Adapter) -> None:
        """Start from `adapter`.

        Raises:
            ValueError: the adapter's shapes do not match this base model.
        """
        for module, layer in self.lora.items():
            matrix = self.matrices[module]
            if matrix.name not in adapter.layers:
                raise ValueError(f"the adapter has no {matrix.name}: it was made for another base model")
            a, b = adapter.layers[matrix.name]
            if a.shape != layer.lora_a.shape or b.shape != layer.lora_b.shape:
                raise ValueError(
                    f"the adapter's {matrix.name} is {a.shape}×{b.shape}: it was made for another base or rank"
                )
            if matrix.order is not None:
                b = b[np.argsort(matrix.order)]
            with torch.no_grad():
                layer.lora_a.copy_(torch.from_numpy(a))
                layer.lora_b.copy_(torch.from_numpy(b))


def load(
    folder: Path, device: Device, rank: int, alpha: float, bits: Bits = 16, split: LayerSplit | None = None
) -> TunableModel:
    """Build the model on `device` from a Hugging Face folder, or one created by `core.engine.formats.weights.convert`,
    with `bits` per number of its frozen layers.

    Tensors are read one after another: so that no more than the model and one block of 64 MB are in memory; of a model
    that is split no more than this process's share and one layer.

    Raises:
        UntrainableModel: the family has parts that are not implemented here.
    """
    stored = hf_folder.read_tensors(folder)
    try:
        config = gguf_keys.text_config(folder)
        architecture = gguf_keys.architecture(config.model_type)
    except UnusableModel as exc:
        raise UntrainableModel(exc.reason) from exc
    body = _empty_body(config, stored)
    tied = _HEAD not in stored or bool(getattr(config, "tie_word_embeddings", False))
    reader = _Reader(stored, device)
    embedding = reader.take(_EMBEDDING, device.dtype)
    head = embedding if tied else reader.take(_HEAD, device.dtype)
    scale = float(getattr(body.embed_tokens, "scalar_embed_scale", 1.0))
    body.embed_tokens = nn.Identity()
    layer_embedding = _take_layer_embedding(body, reader)
    # recreated on the device, because its tables are computed rather than loaded
    body.rotary_emb = type(body.rotary_emb)(config=config).to(device.place)
    lora, matrices = _insert_lora(body, reader, config, architecture, rank, alpha, bits, split)
    others = {name.removeprefix("model."): reader.take(name, torch.float32) for name in reader.remaining("model.")}
    body.load_state_dict(others, strict=False, assign=True)
    parts = [*body.named_parameters(), *body.named_buffers()]
    if missing := [name for name, part in parts if part.is_meta]:
        raise UntrainableModel(msg("the model has no weights for {name}", name=missing[0]))
    trainable = {id(part) for layer in lora.values() for part in (layer.lora_a, layer.lora_b)}
    for parameter in body.parameters():
        if id(parameter) not in trainable:
            parameter.requires_grad_(False)
    cap = getattr(config, "final_logit_softcapping", None) or None
    packs = set(getattr(config, "layer_types", None) or ()) <= _ATTENTION
    ranks = ALONE if split is None else split.finish(body)
    model = TunableModel(
        body.eval(), embedding, scale, head, lora, matrices, architecture, device, layer_embedding, cap, packs, ranks
    )
    if device.is_cpu:  # smaller batches and tiles make up for the time
        model.checkpoint_mlps()
    return model


def _checkpoint(module: nn.Module) -> None:
    """Compute a module's activations again in the backward pass (Chen et al. 2016, arXiv:1604.06174)."""
    module.forward = partial(  # not transformers' own way, which needs training mode
        checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False
    )


def _empty_body(config: Any, stored: Mapping[str, StoredTensor]) -> Any:
    """Create transformers' decoder without weights."""
    from transformers import AutoModelForCausalLM

    for name, neutral in _NEUTRAL_SETTINGS.items():
        if getattr(config, name, None) not in neutral:
            raise UntrainableModel(
                msg("{name} is {value}, which is not supported", name=name, value=getattr(config, name))
            )
    if "lm_head.bias" in stored:
        raise UntrainableModel(msg("the tensor {name} is not supported", name="lm_head.bias"))
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    body = getattr(whole, "model", None)
    if not all(hasattr(body, part) for part in ("layers", "embed_tokens", "rotary_emb")):
        raise UntrainableModel(msg("its layers are arranged in another way than those of Llama"))
    return body


class _Reader:
    """Reads each tensor once, block by block, to the device."""

    def __init__(self, stored: Mapping[str, StoredTensor], device: Device) -> None:
        self._stored, self.device = dict(stored), device

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def take(self, name: str, dtype: torch.dtype) -> Tensor:
        """Read a tensor. Raises UntrainableModel if it does not exist or has already been read."""
        if name not in self._stored:
            raise UntrainableModel(msg("the model has no weights for {name}", name=name))
        source = self._stored.pop(name)
        out, row = torch.empty(source.shape, dtype=dtype, device=self.device.place), 0
        for block in source.blocks():
            if len(source.shape) > 1:
                out.view(source.shape[0], -1)[row : row + len(block)] = torch.from_numpy(block)
                row += len(block)
            else:
                out.copy_(torch.from_numpy(block))
        return out

    def remaining(self, prefix: str) -> list[str]:
        """The tensors that have not been read."""
        return [name for name in self._stored if name.startswith(prefix)]


def _take_layer_embedding(body: nn.Module, reader: _Reader) -> LayerEmbedding | None:
    """Read the decoder's layer embedding, which `TunableModel` computes itself; None if it has none."""
    module = getattr(body, "embed_tokens_per_layer", None)
    if module is None:
        return None
    body.embed_tokens_per_layer = nn.Identity()
    table = reader.take(_LAYER_EMBEDDING, reader.device.dtype)
    return LayerEmbedding(table, float(module.scalar_embed_scale), len(body.get_submodule("layers")))


def _insert_lora(
    body: nn.Module,
    reader: _Reader,
    config: Any,
    architecture: str,
    rank: int,
    alpha: float,
    bits: Bits,
    split: LayerSplit | None,
) -> tuple[dict[str, LoraLinear], dict[str, GgufMatrix]]:
    """Replace every linear layer that llama.cpp can adapt with a LoRA layer, and read its matrix."""
    layers: dict[str, LoraLinear] = {}
    matrices: dict[str, GgufMatrix] = {}
    names = folder_converter.name_map(architecture, config.num_hidden_layers)
    for index, block in enumerate(body.get_submodule("layers").children()):
        for module, base in [pair for pair in block.named_modules() if isinstance(pair[1], nn.Linear)]:
            name = f"model.layers.{index}.{module}"
            gguf_name = names.get_name(name)
            if gguf_name is None:
                continue
            bias = reader.take(f"{name}.bias", torch.float32) if f"{name}.bias" in reader else None
            base.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
            numbers, packing = frozen.packed(reader.take(f"{name}.weight", reader.device.dtype), bits)
            layer = LoraLinear(base, numbers, rank, alpha, packing)
            parent, _, leaf = module.rpartition(".")
            setattr(block.get_submodule(parent), leaf, layer)
            layers[name] = layer
            matrices[name] = GgufMatrix(
                gguf_name, folder_converter.row_order(name, base.out_features, config, architecture)
            )
        if split is not None:
            split.add(block, {part.weight for part in block.modules() if isinstance(part, LoraLinear)})
    return layers, matrices
