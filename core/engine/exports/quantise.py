"""Values of matrices as bytes of a GGUF type: float16, Q8_0 and the mixture Q4_K_M.

Q4_K and Q6_K are written by `ggml_quantize_chunk` of the installed llama.cpp; the `gguf` package only reads them.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from core.engine.exports.forms import Form
from core.engine.formats.unusable_model import UnusableModel
from core.engine.serving.llama_child import provide_openmp
from core.message import msg

F16, Q8_0, Q5_0 = GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q5_0
Q4_K, Q6_K = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K
FILE_TYPES: dict[Form, int] = {"gguf-f16": 1, "gguf-q8_0": 7, "gguf-q4_k_m": 15}
"""llama.cpp's numbers for `general.file_type`."""
_BY_LLAMA = frozenset({Q4_K, Q6_K})
_NARROWER = {Q4_K: Q5_0, Q6_K: Q8_0}  # what llama.cpp uses for rows that are no multiple of 256


def matrix_type(form: Form, name: str, width: int, layers: int, *, tied: bool) -> GGMLQuantizationType:
    """The type of a matrix in a merged file, as llama.cpp's own quantiser chooses it.

    Args:
        name: the tensor's name, such as `blk.0.attn_v.weight`.
        width: values in a row.
        layers: number of the model's blocks.
        tied: whether the embedding is also the output head.
    """
    if form == "gguf-f16":
        return F16
    kind = Q8_0 if form == "gguf-q8_0" else _of_mixture(name, layers, tied)
    if width % GGML_QUANT_SIZES[kind][0]:
        kind = _NARROWER.get(kind, F16)
    return F16 if width % GGML_QUANT_SIZES[kind][0] else kind


def _of_mixture(name: str, layers: int, tied: bool) -> GGMLQuantizationType:
    """Q4_K_M: 6 bits for the head, and for every value and down matrix of the first, last and each third block."""
    if name == "output.weight" or (name == "token_embd.weight" and tied):
        return Q6_K
    if name.endswith((".attn_v.weight", ".ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Q6_K
    return Q4_K


def row_bytes(kind: GGMLQuantizationType, width: int) -> int:
    """Bytes of a row of `width` values."""
    block, size = GGML_QUANT_SIZES[kind]
    return width // block * size


def to_bytes(values: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> bytes:
    """Rows of values [rows, width] in the form of `kind`.

    Raises:
        UnusableModel: the installed llama.cpp has no quantiser.
    """
    if kind not in _BY_LLAMA:
        return quants.quantize(np.ascontiguousarray(values), kind).tobytes()
    rows, width = values.shape
    source = np.ascontiguousarray(values, dtype=np.float32)
    target = ctypes.create_string_buffer(rows * row_bytes(kind, width))
    pointer = source.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = _quantiser()(int(kind), pointer, target, 0, rows, width, None)
    if written != len(target):
        raise ValueError(f"llama.cpp wrote {written} bytes instead of {len(target)}")
    return target.raw


def check_available(form: Form) -> None:
    """Raise UnusableModel if this machine cannot write a form."""
    if form == "gguf-q4_k_m":
        _quantiser()


@cache
def _quantiser() -> Any:
    """`ggml_quantize_chunk(type, source, target, start, rows, width, importance)`; it returns the bytes written."""
    provide_openmp()
    found = importlib.util.find_spec("xllamacpp")
    for folder in (found and found.submodule_search_locations) or ():
        for library in Path(folder).glob("*.so"):
            function = getattr(ctypes.CDLL(str(library)), "ggml_quantize_chunk", None)
            if function is not None:
                function.restype = ctypes.c_size_t
                function.argtypes = [
                    ctypes.c_int, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                    ctypes.c_int64, ctypes.c_void_p,
                ]  # fmt: skip
                return function
    raise UnusableModel(
        "no_quantiser",
        msg("The installed llama.cpp can't write 4-bit files."),
        msg("Export the model as gguf-q8_0, or install the version of xllamacpp in requirements-engine.txt."),
    )
