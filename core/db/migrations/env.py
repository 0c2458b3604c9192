"""Alembic environment: runs the migrations on the caller's connection and in its transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from core.db.tables import Base

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
