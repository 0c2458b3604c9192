"""A process of its own that opens one Parquet file and writes its rows as JSON lines: `… parquet_child BYTES`.

The file comes on standard input. A file with one changed byte can end the process that reads it (Arrow's C++ throws
where nobody catches), and a small one can unpack to any size. Here that ends this process only.

The first line tells the names of the columns, and those that hold bytes; each further line is a row of texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from core.dataset.importers.cell_format import text_of
from core.dataset.importers.process_limits import limit, say

_BATCH = 1_000  # rows


def main(memory: int) -> None:
    """Read the file on standard input and write its rows.

    Args:
        memory: bytes of address space that this process may have.
    """
    limit(memory)
    import pyarrow as pa  # after the limit, for it counts too
    import pyarrow.parquet as pq

    try:
        found = pq.ParquetFile(pa.BufferReader(sys.stdin.buffer.read()), pre_buffer=False)
        schema = found.schema_arrow
        good = [place for place, field in enumerate(schema) if not _holds_bytes(pa, field.type)]
        dropped = [field.name for place, field in enumerate(schema) if place not in good]
        classes = _class_names(schema)
        say({"columns": [schema.field(place).name for place in good], "bytes": dropped})
        for batch in found.iter_batches(batch_size=_BATCH, use_threads=False) if good else ():
            columns = (_values(pa, batch.column(place), classes.get(schema.field(place).name)) for place in good)
            for row in zip(*columns, strict=True):
                say([text_of(value) for value in row])
    except (MemoryError, pa.ArrowMemoryError):
        say({"error": "memory"})
    except (pa.ArrowException, OSError, ValueError):
        say({"error": "broken"})


def _values(pa: Any, column: Any, names: Sequence[str] | None) -> list[Any]:
    """The values of a column; numbers that stand for `names` (classes) as their name."""
    values = column.to_pylist()
    if names is not None:
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    return [_plain(pa, value, column.type) for value in values] if _needs_care(pa, column.type) else values


def _needs_care(pa: Any, kind: Any) -> bool:
    """Whether values of a type are not what people would write: single precision and maps, also inside of others."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind) or pa.types.is_map(kind):
        return True
    return any(_needs_care(pa, kind.field(number).type) for number in range(kind.num_fields))


def _plain(pa: Any, value: Any, kind: Any) -> Any:
    """A value with single precision as short as it can be (0.1, not 0.10000000149011612), and maps as objects."""
    if value is None:
        return None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        import numpy as np

        single = np.float32 if pa.types.is_float32(kind) else np.float16
        return value if value != value else float(str(single(value)))
    if pa.types.is_map(kind):
        return {str(key): _plain(pa, one, kind.item_type) for key, one in value}
    if pa.types.is_struct(kind):
        return {field.name: _plain(pa, value[field.name], field.type) for field in kind}
    if kind.num_fields == 1 and isinstance(value, list):
        return [_plain(pa, one, kind.field(0).type) for one in value]
    return value


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of classes by column, as Hugging Face's `datasets` leaves them in the file beside the numbers."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: one for name, one in features.items() if isinstance(one, dict)}
        return {name: list(map(str, one["names"])) for name, one in labels.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(pa, kind.field(number).type) for number in range(kind.num_fields))


if __name__ == "__main__":
    main(int(sys.argv[1]))
