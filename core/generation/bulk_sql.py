"""Processes many rows in one statement: the group is passed as one JSON text, on SQLite and on PostgreSQL.

One statement per row would be slow: SQLite's driver releases the GIL at every step, and then waits up to 5 ms until the
event loop, which is busy with answers, releases it again. A single statement waits only once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    CursorResult,
    Executable,
    FromClause,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import JSON as PG_JSON
from sqlalchemy.orm import Session


class JsonRows:
    """The rows of a JSON array of arrays, as a table that a statement can read.

    Pass `to_json(rows)` as the bound parameter `packed`. Build statements once per dialect and cache them, because
    SQLAlchemy takes longer to build a statement than the database takes to execute it.
    """

    def __init__(self, postgres: bool) -> None:
        self._postgres = postgres
        packed = bindparam("packed", type_=Text())
        if postgres:
            self.table: FromClause = func.json_array_elements(cast(packed, PG_JSON)).table_valued("value", name="g")
        else:
            self.table = func.json_each(packed).table_valued("value", name="g")

    def text(self, index: int) -> ColumnElement[Any]:
        """Each row's value at `index` (from 0), as text; JSON null becomes SQL NULL."""
        value: ColumnElement[Any] = self.table.c.value
        if self._postgres:
            return value.op("->>")(literal_column(str(index)))
        return func.json_extract(value, literal_column(f"'$[{index}]'"))

    def number(self, index: int) -> ColumnElement[int]:
        """Each row's value at `index`, as an integer."""
        return cast(self.text(index), Integer)


def on_postgres(connection: Session | Connection) -> bool:
    """Whether the connection is to a PostgreSQL database."""
    dialect = connection.dialect if isinstance(connection, Connection) else connection.get_bind().dialect
    return dialect.name == "postgresql"


def to_json(rows: Sequence[Sequence[object]]) -> str:
    """Convert the rows to JSON."""
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def as_single_value(query: Select[*tuple[Any, ...]], postgres: bool) -> Select[*tuple[Any, ...]]:
    """The statement that `read` uses to fetch all rows of a query; cache it if the query is used often."""
    return query if postgres else select(func.json_group_array(func.json_array(*query.subquery().c)))


def run(
    connection_or_session: Session | Connection, statement: Executable, params: Mapping[str, object]
) -> CursorResult[Any]:
    """Execute a cached statement (see `JsonRows`); `params` has a value for each of its bound parameters.

    On SQLite the SQL goes directly to the driver: SQLAlchemy takes longer to look up and bind a statement than SQLite
    takes to execute it.
    """
    connection = (
        connection_or_session.connection() if isinstance(connection_or_session, Session) else connection_or_session
    )
    if on_postgres(connection):
        return connection.execute(statement, params)
    sql, parameters, constants = _compile_for_sqlite(statement)
    values = {**constants, **params}
    return connection.exec_driver_sql(sql, tuple(to_driver(values[name]) for name, to_driver in parameters))


@cache
def _compile_for_sqlite(statement: Executable) -> tuple[str, list[tuple[str, Callable[[Any], Any]]], dict[str, object]]:
    """Compile a statement for SQLite: return the SQL, its parameters in order (name, converter to SQLite's value), and
    the constant values.
    """
    dialect = sqlite.dialect()
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every statement has it
    binds: dict[str, BindParameter[Any]] = compiled.binds
    processors = {
        name: bind.type.dialect_impl(dialect).bind_processor(dialect) or _unchanged for name, bind in binds.items()
    }
    constants = {name: bind.value for name, bind in binds.items() if not bind.required}
    return str(compiled), [(name, processors[name]) for name in compiled.positiontup], constants


def _unchanged(value: object) -> object:
    return value


def read(
    connection: Session | Connection, statement: Select[*tuple[Any, ...]], params: Mapping[str, object]
) -> list[list[Any]]:
    """Read all rows of an `as_single_value` query. On SQLite, times and amounts of money are stored texts."""
    rows = run(connection, statement, params)
    if on_postgres(connection):
        return [list(row) for row in rows]
    return json.loads(rows.scalar() or "[]")  # type: ignore[no-any-return]  # the query returns a JSON array


def fresh_ids(session: Session, table: str, highest: ColumnElement[int | None], count: int) -> list[int]:
    """Allocate ids that no other session can use, for `count` new rows of a table.

    PostgreSQL allocates them from the sequence; on SQLite this session is the only writer, so the next ids are free.
    """
    if on_postgres(session):
        sequence = select(func.nextval(func.pg_get_serial_sequence(table, "id"))).select_from(
            func.generate_series(1, count)
        )
        return list(session.scalars(sequence))
    first = (session.scalar(select(highest)) or 0) + 1
    return list(range(first, first + count))
