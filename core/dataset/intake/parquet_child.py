"""A process of its own that opens one Parquet file and writes its rows as JSON lines: `… parquet_child BYTES`.

The file comes on standard input. A file with one changed byte can end the process that reads it (Arrow's C++ throws
where nobody catches), and a small one can unpack to any size. Here that ends this process only.

The first line tells the names of the columns, and those that hold bytes; each further line is a row of texts.
"""

from __future__ import annotations

import sys
from typing import Any

from core.dataset.intake.celltext import text_of
from core.dataset.intake.limits import limit, say

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
        say({"columns": [schema.field(place).name for place in good], "bytes": dropped})
        for batch in found.iter_batches(batch_size=_BATCH, use_threads=False) if good else ():
            for row in zip(*(_values(pa, batch.column(place)) for place in good), strict=True):
                say([text_of(value) for value in row])
    except (MemoryError, pa.ArrowMemoryError):
        say({"error": "memory"})
    except (pa.ArrowException, OSError, ValueError):
        say({"error": "broken"})


def _values(pa: Any, column: Any) -> list[Any]:
    """The values of a column. Single precision is written as short as it can be: 0.1, not 0.10000000149011612."""
    if not (pa.types.is_float32(column.type) or pa.types.is_float16(column.type)):
        return column.to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types
    import numpy as np

    kind = np.float32 if pa.types.is_float32(column.type) else np.float16
    return [value if value is None or value != value else float(str(kind(value))) for value in column.to_pylist()]


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(pa, kind.field(number).type) for number in range(kind.num_fields))


if __name__ == "__main__":
    main(int(sys.argv[1]))
