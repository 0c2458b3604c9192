"""Many rows in one statement: the group travels as one JSON text, on SQLite and on PostgreSQL alike.

Why not one statement for each row: SQLite's driver lets other threads in at every step, and then waits for the event
loop, which is busy with the answers, to let it in again; up to 5 ms each time. One statement is one wait.
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

    The statement's bound parameter `to_json` carries the JSON: give it `to_json(rows)`. Build statements once for each
    dialect and keep them: that takes SQLAlchemy longer than the database needs to carry them out.
    """

    def __init__(self, postgres: bool) -> None:
        self._postgres = postgres
        carried = bindparam("packed", type_=Text())
        if postgres:
            self.table: FromClause = func.json_array_elements(cast(carried, PG_JSON)).table_valued("value", name="g")
        else:
            self.table = func.json_each(carried).table_valued("value", name="g")

    def text(self, place: int) -> ColumnElement[Any]:
        """The value at `place` (from 0) of each row, as text; JSON's null is SQL's."""
        value: ColumnElement[Any] = self.table.c.value
        if self._postgres:
            return value.op("->>")(literal_column(str(place)))
        return func.json_extract(value, literal_column(f"'$[{place}]'"))

    def number(self, place: int) -> ColumnElement[int]:
        """The value at `place` of each row, as a whole number."""
        return cast(self.text(place), Integer)


def on_postgres(where: Session | Connection) -> bool:
    """Whether this is a PostgreSQL database."""
    dialect = where.dialect if isinstance(where, Connection) else where.get_bind().dialect
    return dialect.name == "postgresql"


def to_json(rows: Sequence[Sequence[object]]) -> str:
    """The rows as JSON."""
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def as_single_value(query: Select[*tuple[Any, ...]], postgres: bool) -> Select[*tuple[Any, ...]]:
    """The statement that `read` reads all rows of a query with; keep it where the query is used often."""
    return query if postgres else select(func.json_group_array(func.json_array(*query.subquery().c)))


def run(on: Session | Connection, statement: Executable, given: Mapping[str, object]) -> CursorResult[Any]:
    """Execute a statement that is kept (see `JsonRows`); `given` has a value for each of its open parameters.

    On SQLite its SQL goes to the driver directly: SQLAlchemy takes longer to look it up and to bind it than SQLite
    takes to carry it out.
    """
    connection = on.connection() if isinstance(on, Session) else on
    if on_postgres(connection):
        return connection.execute(statement, given)
    sql, parameters, constants = _sqlite(statement)
    values = {**constants, **given}
    return connection.exec_driver_sql(sql, tuple(bound(values[name]) for name, bound in parameters))


@cache
def _sqlite(statement: Executable) -> tuple[str, list[tuple[str, Callable[[Any], Any]]], dict[str, object]]:
    """SQL for SQLite; its parameters in order, each with what makes SQLite's value of ours; those that have a value."""
    dialect = sqlite.dialect()
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every statement has it
    binds: dict[str, BindParameter[Any]] = compiled.binds
    bound = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) or _same for name, bind in binds.items()}
    constants = {name: bind.value for name, bind in binds.items() if not bind.required}
    return str(compiled), [(name, bound[name]) for name in compiled.positiontup], constants


def _same(value: object) -> object:
    return value


def read(on: Session | Connection, statement: Select[*tuple[Any, ...]], given: Mapping[str, object]) -> list[list[Any]]:
    """All rows of `as_single_value`. On SQLite a point in time, or an amount of money, is the text that the table
    has."""
    rows = run(on, statement, given)
    if on_postgres(on):
        return [list(row) for row in rows]
    return json.loads(rows.scalar() or "[]")  # type: ignore[no-any-return]  # JSON that we asked for


def fresh_ids(session: Session, table: str, highest: ColumnElement[int | None], count: int) -> list[int]:
    """Ids for `count` new rows of a table, which no other session can take.

    PostgreSQL gives them out; on SQLite this session is the only writer, and the next ones are free.
    """
    if on_postgres(session):
        numbers = select(func.nextval(func.pg_get_serial_sequence(table, "id"))).select_from(
            func.generate_series(1, count)
        )
        return list(session.scalars(numbers))
    first = (session.scalar(select(highest)) or 0) + 1
    return list(range(first, first + count))
