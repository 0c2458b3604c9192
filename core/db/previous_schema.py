"""Upgrades a database of the last development version (revision 0020) to the first release's schema.

The first release's schema differs from it only in names, so this renames tables, columns and indexes. It can be removed
once no such database is left; earlier revisions are refused (see `core.db.migrate`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

LAST_REVISION = "0020"
OLD_REVISIONS = frozenset(f"{number:04d}" for number in range(1, 21))
"""Revisions of the migrations that were replaced by `0001_initial`."""

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "answers": {"right": "correct"},
    "batches": {
        "status": "remote_status",
        "input_file": "input_file_id",
        "output_file": "output_file_id",
        "error_file": "error_file_id",
    },
    "comparison_answers": {"comparison_id": "before_after_id"},
    "datasets": {"filled": "fill_cursor", "parts": "mix_sources", "chat_system": "system_message"},
    "own_prices": {"what": "kind"},
    "rescued_entries": {"at": "created_at"},
    "rows": {"state_before": "previous_state"},
    "speed_measurements": {"at": "measured_at"},
    "spend": {"at": "created_at"},
    "spend_totals": {"at_most_usd": "max_usd"},
    "stories": {"at": "created_at", "asked_model": "requested_model"},
    "training_events": {"at": "created_at"},
    "training_jobs": {"stop_requested": "requested_action"},
    "votes": {"at": "created_at", "order": "story_ids", "winner": "winner_id"},
    "workers": {"beat_at": "heartbeat_at"},
}
"""New name by old name, by old table."""
_TABLES = {
    "answers": "evaluation_answers",
    "comparisons": "before_after",
    "comparison_answers": "before_after_answers",
    "own_prices": "custom_prices",
    "recipes": "recipe_versions",
    "workers": "worker_heartbeats",
}
_INDEXES = {
    "ix_comparisons_state": "ix_before_after_state ON before_after (state)",
    "ix_recipes_family": "ix_recipe_versions_family ON recipe_versions (family)",
    "ix_speed_measurements_at": "ix_speed_measurements_measured_at ON speed_measurements (measured_at)",
    "ix_spend_at": "ix_spend_created_at ON spend (created_at)",
    "ix_stories_at": "ix_stories_created_at ON stories (created_at)",
    "rows_by_place": "ix_rows_position ON rows (dataset_id, position)",
    "rows_by_state": "ix_rows_state ON rows (dataset_id, state, updated_at)",
}


def rename(connection: Connection) -> None:
    """Apply the new names in the caller's transaction. No data is changed or copied."""
    for table, columns in _COLUMNS.items():
        for old, new in columns.items():
            connection.exec_driver_sql(f'ALTER TABLE {table} RENAME COLUMN "{old}" TO {new}')
    for old, new in _TABLES.items():
        connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")
    for old, new in _INDEXES.items():  # SQLite cannot rename an index
        connection.exec_driver_sql(f"DROP INDEX {old}")
        connection.exec_driver_sql(f"CREATE INDEX {new}")
