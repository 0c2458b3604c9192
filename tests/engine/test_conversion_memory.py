"""Converting a folder streams its tensors: memory does not grow with the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from tests.support.tiny_folders import FAMILIES

ROOT = Path(__file__).parents[2]
_WIDTH, _INNER, _VOCABULARY, _LAYERS, _HEADS, _KEY_HEADS = 2048, 5632, 24_000, 2, 16, 8
_LIMIT = 150 << 20  # as docs/models.md says
_MEASURE = """
import sys
from pathlib import Path
from core.engine.formats import folder_converter, hf_folder

def figure(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

tiny, large, target = map(Path, sys.argv[1:])
folder_converter.convert(hf_folder.open_folder(tiny), target)  # loads what any conversion needs
before = figure("VmRSS")
folder_converter.convert(hf_folder.open_folder(large), target)
print(figure("VmHWM") - before)
"""


def _enlarge(tiny: Path, large: Path) -> int:
    """Write a folder of several hundred MB with the files of a tiny one; its weights are zeros. Returns their bytes."""
    large.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (large / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    sizes = {
        "hidden_size": _WIDTH, "intermediate_size": _INNER, "vocab_size": _VOCABULARY, "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS, "num_key_value_heads": _KEY_HEADS, "head_dim": _WIDTH // _HEADS,
    }  # fmt: skip
    (large / "config.json").write_text(json.dumps({**config, **sizes}))
    keys = _WIDTH // _HEADS * _KEY_HEADS
    shapes: dict[str, list[int]] = {
        "model.embed_tokens.weight": [_VOCABULARY, _WIDTH],
        "model.norm.weight": [_WIDTH],
    }  # fmt: skip
    for layer in range(_LAYERS):
        for name, shape in (
            ("self_attn.q_proj", [_WIDTH, _WIDTH]), ("self_attn.k_proj", [keys, _WIDTH]),
            ("self_attn.v_proj", [keys, _WIDTH]), ("self_attn.o_proj", [_WIDTH, _WIDTH]),
            ("mlp.gate_proj", [_INNER, _WIDTH]), ("mlp.up_proj", [_INNER, _WIDTH]),
            ("mlp.down_proj", [_WIDTH, _INNER]), ("input_layernorm", [_WIDTH]), ("post_attention_layernorm", [_WIDTH]),
        ):  # fmt: skip
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with (large / "model.safetensors").open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        out.truncate(8 + len(raw) + end)  # zeros that take no disk
    return end


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to read the memory from")
def test_converting_a_large_folder_needs_little_memory(tmp_path: Path) -> None:
    tiny = FAMILIES["llama3"].write(tmp_path / "tiny")
    weights = _enlarge(tiny, tmp_path / "large")
    assert weights > 1.5 * _LIMIT
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tiny), str(tmp_path / "large"), str(tmp_path / "model.gguf")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert (tmp_path / "model.gguf").stat().st_size > weights
    (tmp_path / "model.gguf").unlink()  # pytest keeps the folders of the last runs
    assert int(measured.stdout) < min(_LIMIT, 1.1 * weights)
