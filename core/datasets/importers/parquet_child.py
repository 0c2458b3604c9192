"""A reader process for one Parquet file; writes its rows as JSON lines: `… parquet_child BYTES`.

The file is read from standard input. A single changed byte can crash the process that reads it (uncaught C++ exceptions
in Arrow), and a small file can unpack to any size. Only this process is affected.

The first line has the column names, and the names of binary columns; each further line is a row of texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from core.datasets.importers.cell_format import cell_text
from core.datasets.importers.sandboxed_reader import apply_limits, write_message

_BATCH = 1_000  # rows


def main(memory: int) -> None:
    """Read the file on standard input and write its rows.

    Args:
        memory: bytes of address space for this process.
    """
    apply_limits(memory)
    import pyarrow as pa  # imported after the limit is set, because imports count too
    import pyarrow.parquet as pq

    try:
        parquet_file = pq.ParquetFile(pa.BufferReader(sys.stdin.buffer.read()), pre_buffer=False)
        schema = parquet_file.schema_arrow
        text_columns = [i for i, field in enumerate(schema) if not _holds_bytes(pa, field.type)]
        binary_columns = [field.name for i, field in enumerate(schema) if i not in text_columns]
        classes = _class_names(schema)
        write_message({"columns": [schema.field(i).name for i in text_columns], "bytes": binary_columns})
        for batch in parquet_file.iter_batches(batch_size=_BATCH, use_threads=False) if text_columns else ():
            columns = (_values(pa, batch.column(i), classes.get(schema.field(i).name)) for i in text_columns)
            for row in zip(*columns, strict=True):
                write_message([cell_text(value) for value in row])
    except (MemoryError, pa.ArrowMemoryError):
        write_message({"error": "memory"})
    except (pa.ArrowException, OSError, ValueError):
        write_message({"error": "broken"})


def _values(pa: Any, column: Any, names: Sequence[str] | None) -> list[Any]:
    """The values of a column; numbers of classes (`names`) are replaced by their name."""
    values = column.to_pylist()
    if names is not None:
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    return [_plain(pa, value, column.type) for value in values] if _needs_conversion(pa, column.type) else values


def _needs_conversion(pa: Any, kind: Any) -> bool:
    """True for types whose values need conversion: single precision and maps, also nested."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind) or pa.types.is_map(kind):
        return True
    return any(_needs_conversion(pa, kind.field(number).type) for number in range(kind.num_fields))


def _plain(pa: Any, value: Any, kind: Any) -> Any:
    """A value with single precision in its shortest form (0.1, not 0.10000000149011612), and maps as objects."""
    if value is None:
        return None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        import numpy as np

        single = np.float32 if pa.types.is_float32(kind) else np.float16
        return value if value != value else float(str(single(value)))
    if pa.types.is_map(kind):
        return {str(key): _plain(pa, item, kind.item_type) for key, item in value}
    if pa.types.is_struct(kind):
        return {field.name: _plain(pa, value[field.name], field.type) for field in kind}
    if kind.num_fields == 1 and isinstance(value, list):
        return [_plain(pa, item, kind.field(0).type) for item in value]
    return value


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Class names by column, which Hugging Face's `datasets` stores in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        return {
            name: list(map(str, feature["names"]))
            for name, feature in labels.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(pa, kind.field(number).type) for number in range(kind.num_fields))


if __name__ == "__main__":
    main(int(sys.argv[1]))
