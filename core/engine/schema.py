"""The tables of engine.db, and the steps that change older databases."""

from __future__ import annotations

SCHEMA_VERSION = 10
"""Schema of this version; stored in `PRAGMA user_version`."""
SCHEMA = """
CREATE TABLE files (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
  purpose TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER, job_id TEXT, deleted_at INTEGER
);
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, status TEXT NOT NULL,
  model TEXT NOT NULL, base TEXT NOT NULL, format TEXT NOT NULL, tuned_id TEXT NOT NULL, suffix TEXT,
  seed INTEGER NOT NULL, training_file TEXT NOT NULL, validation_file TEXT, examples INTEGER NOT NULL,
  n_epochs INTEGER NOT NULL, batch_size INTEGER NOT NULL, learning_rate_multiplier REAL NOT NULL, metadata TEXT,
  fine_tuned_model TEXT, result_file TEXT, trained_tokens INTEGER, error TEXT, started_at INTEGER,
  finished_at INTEGER, estimated_finish INTEGER, step INTEGER NOT NULL DEFAULT 0, total_steps INTEGER,
  tokens_per_s REAL, events_read INTEGER NOT NULL DEFAULT 0, training_s REAL NOT NULL DEFAULT 0, epoch_tokens INTEGER,
  method TEXT NOT NULL DEFAULT 'supervised', options TEXT NOT NULL DEFAULT '{}', integrations TEXT NOT NULL DEFAULT '',
  beta REAL
);
CREATE INDEX jobs_by_status ON jobs (status, seq);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
  level TEXT NOT NULL, message TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX events_by_job ON events (job_id, seq);
CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
  step INTEGER NOT NULL, model TEXT NOT NULL, metrics TEXT NOT NULL, UNIQUE (job_id, step)
);
CREATE TABLE models (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, base TEXT NOT NULL,
  adapter TEXT NOT NULL, format TEXT NOT NULL, job_id TEXT, step INTEGER
);
"""
_ALIASES = """
CREATE TABLE IF NOT EXISTS aliases (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, model TEXT NOT NULL
)
"""
_RESPONSES = """
CREATE TABLE IF NOT EXISTS responses (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, previous_id TEXT,
  input TEXT NOT NULL, body TEXT NOT NULL
)
"""
_BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, status TEXT NOT NULL, endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL,
  metadata TEXT, clamps INTEGER NOT NULL, output_expires_s INTEGER, model TEXT, errors TEXT,
  total INTEGER NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL, usage TEXT, output_file_id TEXT,
  error_file_id TEXT, in_progress_at INTEGER, finalizing_at INTEGER, completed_at INTEGER, failed_at INTEGER,
  expired_at INTEGER, cancelling_at INTEGER, cancelled_at INTEGER
)
"""
_BATCH_LINES = """
CREATE TABLE IF NOT EXISTS batch_lines (
  batch_id TEXT NOT NULL, line INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL, custom_id TEXT,
  state TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (batch_id, line)
)
"""
_UPLOADS = """
CREATE TABLE IF NOT EXISTS uploads (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, status TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,
  bytes INTEGER NOT NULL, file_expires_at INTEGER, file_id TEXT
)
"""
_UPLOAD_PARTS = """
CREATE TABLE IF NOT EXISTS upload_parts (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, upload_id TEXT NOT NULL,
  created_at INTEGER NOT NULL, bytes INTEGER NOT NULL
)
"""
_SHADOWS = """
CREATE TABLE IF NOT EXISTS shadows (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, model TEXT NOT NULL,
  base_url TEXT NOT NULL, label TEXT NOT NULL, share INTEGER NOT NULL, fallback INTEGER NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, ended_at INTEGER, relayed INTEGER NOT NULL, failed INTEGER NOT NULL, copied INTEGER NOT NULL,
  dropped INTEGER NOT NULL, lost INTEGER NOT NULL
)
"""
_SHADOW_CALLS = """
CREATE TABLE IF NOT EXISTS shadow_calls (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, shadow TEXT NOT NULL, created_at INTEGER NOT NULL,
  endpoint TEXT NOT NULL, copy TEXT NOT NULL, state TEXT NOT NULL, ended INTEGER NOT NULL, request TEXT NOT NULL,
  status INTEGER, old TEXT, old_s REAL, prompt_tokens INTEGER, completion_tokens INTEGER, error TEXT NOT NULL,
  new TEXT, new_s REAL, copy_error TEXT NOT NULL
)
"""
_SHADOW_ENDS = """
CREATE TABLE IF NOT EXISTS shadow_ends (number INTEGER NOT NULL)
"""
_SHADOW = (_SHADOWS, _SHADOW_CALLS, _SHADOW_ENDS)
_SHADOW_LIMITS = (
    "ALTER TABLE shadow_calls ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX IF NOT EXISTS shadow_calls_by_end ON shadow_calls (ended, bytes)",
    "CREATE TABLE IF NOT EXISTS shadow_closed (label TEXT PRIMARY KEY)",
)
SCHEMA += ";".join((_ALIASES, _RESPONSES, _BATCHES, _BATCH_LINES, _UPLOADS, _UPLOAD_PARTS, *_SHADOW, *_SHADOW_LIMITS))
# Migrations by old version. Before version 2, training time was counted from the start of the job, including pauses.
MIGRATIONS = {
    1: (
        "ALTER TABLE jobs ADD COLUMN training_s REAL NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN epoch_tokens INTEGER",
        "UPDATE jobs SET training_s = max(0, coalesce(finished_at, strftime('%s', 'now')) - started_at) "
        "WHERE started_at IS NOT NULL",
    ),
    2: ("ALTER TABLE jobs ADD COLUMN method TEXT NOT NULL DEFAULT 'supervised'",),
    3: ("ALTER TABLE jobs ADD COLUMN options TEXT NOT NULL DEFAULT '{}'",),
    4: (_ALIASES,),
    5: (_RESPONSES,),
    6: (
        _BATCHES,
        _BATCH_LINES,
        _UPLOADS,
        _UPLOAD_PARTS,
        "ALTER TABLE jobs ADD COLUMN integrations TEXT NOT NULL DEFAULT ''",
    ),
    7: ("ALTER TABLE jobs ADD COLUMN beta REAL",),
    8: _SHADOW,
    9: _SHADOW_LIMITS,
}
