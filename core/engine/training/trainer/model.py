"""The base model with its adapter: transformers' layers, with our linear layers and output head.

Low-rank adaptation of frozen linear layers: W x + (alpha / rank) · B (A x). Hu et al. 2021, arXiv:2106.09685, section
4.1: A starts random and B at zero, so training starts from the base model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.engine.formats.gguf_file import LINEAR_MODULES, Adapter
from core.engine.training.trainer.device import Device


class LoraLinear(nn.Module):
    """A frozen matrix (float32 or bfloat16) with a trainable low-rank update (float32)."""

    def __init__(self, base: nn.Linear, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight = weight  # a plain tensor: neither trained nor in the state dict
        self.bias = None if base.bias is None else base.bias.detach()
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=weight.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=weight.device))

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise A with Kaiming-uniform values, as peft and the paper's code do (bound 1/√in), and B with zeros.

        The values are drawn on the CPU, so that they are the same on every device.
        """
        bound = 1 / math.sqrt(self.lora_a.shape[1])
        with torch.no_grad():
            self.lora_a.copy_(torch.empty(self.lora_a.shape).uniform_(-bound, bound, generator=generator))
            self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenPlusLowRank.apply(x, self.weight, self.lora_a, self.lora_b, self.scale)
        return out if self.bias is None else out + self.bias


class _FrozenPlusLowRank(torch.autograd.Function):
    """The forward and backward pass as one autograd node instead of five, without a gradient for the frozen matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down = flat @ a.T
        out = (flat.to(weight.dtype) @ weight.T).float()
        out.addmm_(down, b.T, alpha=scale)
        ctx.save_for_backward(flat, down, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, down, weight, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        up = (grad @ b) * ctx.scale
        grad_a = up.T @ flat
        grad_b = (grad.T @ down) * ctx.scale
        grad_x = (grad.to(weight.dtype) @ weight).float()
        grad_x.addmm_(up, a)
        return grad_x.view(*grads[0].shape[:-1], -1), None, grad_a, grad_b, None


@dataclass(frozen=True)
class TunableModel:
    """A frozen decoder with LoRA layers, and its frozen head.

    Attributes:
        body: transformers' decoder; takes `inputs_embeds` [batch, length, width] and returns hidden states.
        embedding: [vocabulary, width], in the compute dtype.
        embedding_scale: factor of the embeddings (Gemma multiplies by √width).
        head: [vocabulary, width]; the same tensor as `embedding` if they are tied.
        lora: module name → layer.
        architecture: llama.cpp's name of the architecture.
        device: where all of it is.
    """

    body: nn.Module
    embedding: Tensor
    embedding_scale: float
    head: Tensor
    lora: dict[str, LoraLinear]
    architecture: str
    device: Device

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states [batch, length, width] of right-padded `ids` [batch, length]. Padding
        follows the tokens, so the causal mask is sufficient."""
        embedded = nn.functional.embedding(ids, self.embedding).float() * self.embedding_scale
        out: Tensor = self.body(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return out

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
        """A copy of the current adapter."""
        layer = next(iter(self.lora.values()))
        matrices = {
            name: (part.lora_a.detach().cpu().numpy().copy(), part.lora_b.detach().cpu().numpy().copy())
            for name, part in self.lora.items()
        }
        return Adapter(self.architecture, layer.scale * layer.lora_a.shape[0], matrices)

    def load(self, adapter: Adapter) -> None:
        """Start from `adapter`.

        Raises:
            ValueError: its shapes do not match this base model.
        """
        for name, layer in self.lora.items():
            if name not in adapter.layers:
                raise ValueError(f"the adapter has no {name}: it was made for another base model")
            a, b = adapter.layers[name]
            if a.shape != layer.lora_a.shape or b.shape != layer.lora_b.shape:
                raise ValueError(f"the adapter's {name} is {a.shape}×{b.shape}: it was made for another base or rank")
            with torch.no_grad():
                layer.lora_a.copy_(torch.from_numpy(a))
                layer.lora_b.copy_(torch.from_numpy(b))


def load(weights_dir: Path, device: Device, rank: int, alpha: float) -> TunableModel:
    """Build the model on `device` from a folder created by `core.engine.formats.weights.convert`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = json.loads((weights_dir / "config.json").read_text())
    config: Any = AutoConfig.for_model(**settings)
    dtype = device.dtype
    weights = load_file(weights_dir / "weights.safetensors", device=str(device.place))
    with torch.device("meta"):
        body = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").model
    embedding = weights.pop("model.embed_tokens.weight").to(dtype)
    head = weights.pop("lm_head.weight").to(dtype) if "lm_head.weight" in weights else embedding
    scale = float(getattr(body.embed_tokens, "scalar_embed_scale", 1.0))
    body.embed_tokens = nn.Identity()
    # recreated on the device, because its tables are computed and not loaded
    body.rotary_emb = type(body.rotary_emb)(config=config).to(device.place)
    lora = _insert_lora(body, weights, dtype, rank, alpha)
    other_weights = {name.removeprefix("model."): value.float() for name, value in weights.items()}
    body.load_state_dict(other_weights, strict=False, assign=True)
    missing = [name for name, parameter in body.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"the model file lacks {missing[:3]}")
    trainable = {id(parameter) for layer in lora.values() for parameter in layer.parameters()}
    for parameter in body.parameters():
        parameter.requires_grad_(id(parameter) in trainable)
    architecture = settings["model_type"].removesuffix("_text")
    return TunableModel(body.eval(), embedding, scale, head, lora, architecture, device)


def _insert_lora(
    body: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype, rank: int, alpha: float
) -> dict[str, LoraLinear]:
    """Replace every linear layer with a LoRA layer; removes its matrix from `weights`."""
    layers: dict[str, LoraLinear] = {}
    for index, block in enumerate(body.get_submodule("layers").children()):
        for module in LINEAR_MODULES:
            name = f"model.layers.{index}.{module}"
            base = block.get_submodule(module)
            assert isinstance(base, nn.Linear)
            bias = weights.pop(f"{name}.bias", None)
            base.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
            layer = LoraLinear(base, weights.pop(f"{name}.weight").to(dtype), rank, alpha)
            parent, _, leaf = module.rpartition(".")
            setattr(block.get_submodule(parent), leaf, layer)
            layers[name] = layer
    return layers
