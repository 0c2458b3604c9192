"""The schema of the first release: every table of `core/db/tables`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_initial"  # not "0001": databases from before the release may have that revision
down_revision = None


def upgrade() -> None:
    _create_datasets()
    _create_money()
    _create_training()
    _create_stories()


def downgrade() -> None:
    for table in (
        "worker_heartbeats",
        "tours",
        "votes",
        "stories",
        "before_after_answers",
        "before_after",
        "evaluation_answers",
        "evaluations",
        "checkpoints",
        "training_events",
        "training_jobs",
        "batches",
        "rescued_entries",
        "spend_totals",
        "spend",
        "budgets",
        "speed_measurements",
        "custom_prices",
        "runs",
        "version_examples",
        "dataset_versions",
        "recipe_versions",
        "rows",
        "datasets",
    ):
        op.drop_table(table)


def _create_datasets() -> None:
    """Create data sets with their rows, saved recipes and versions, and the runs that generate rows."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("prompt_separator", sa.String(20), nullable=False),
        sa.Column("recipe", sa.JSON(none_as_null=True)),
        sa.Column("recipe_id", sa.String(32)),
        sa.Column("system_message", sa.Text()),
        sa.Column("fill_cursor", sa.Integer(), nullable=False),
        sa.Column("mix_sources", sa.JSON(none_as_null=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "rows",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("dataset_id", sa.String(32), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("column_values", sa.JSON(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("text", sa.Text()),
        sa.Column("finish_reason", sa.String(30)),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.String(40)),
        sa.Column("run_id", sa.String(32)),
        sa.Column("claimed_by", sa.String(64)),
        sa.Column("batch_id", sa.String(32)),
        sa.Column("original_text", sa.Text()),
        sa.Column("previous_state", sa.String(20)),
        sa.Column("split", sa.String(20)),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dataset_id", "key"),
    )
    op.create_index("ix_rows_batch_id", "rows", ["batch_id"])
    op.create_index("ix_rows_position", "rows", ["dataset_id", "position"])
    op.create_index("ix_rows_state", "rows", ["dataset_id", "state", "updated_at"])
    op.create_table(
        "recipe_versions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("family", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("copied_from", sa.String(32)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("family", "version"),
    )
    op.create_index("ix_recipe_versions_family", "recipe_versions", ["family"])
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("dataset_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("n_train", sa.Integer(), nullable=False),
        sa.Column("n_validation", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dataset_id", "number"),
    )
    op.create_index("ix_dataset_versions_dataset_id", "dataset_versions", ["dataset_id"])
    op.create_table(
        "version_examples",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("version_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(20), nullable=False),
        sa.Column("row_key", sa.String(64), nullable=False),
        sa.Column("column_values", sa.JSON(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["dataset_versions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("version_id", "position"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("dataset_id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("note", sa.Text()),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("mode", sa.String(10), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("budget_usd", sa.String(40)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_runs_dataset_id", "runs", ["dataset_id"])
    op.create_index("ix_runs_state", "runs", ["state"])


def _create_money() -> None:
    """Create prices, budgets and the spend ledger, and the batches, which refer to it."""
    op.create_table(
        "custom_prices",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("amount", sa.String(40), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("unit", sa.String(10), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True)),
        sa.Column("valid_until", sa.DateTime(timezone=True)),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "speed_measurements",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("tokens_per_s", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_speed_measurements_measured_at", "speed_measurements", ["measured_at"])
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("amount_usd", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("scope", "subject"),
    )
    op.create_table(
        "spend",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("page", sa.String(20), nullable=False),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("row_id", sa.Integer()),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.String(40)),
        sa.Column("estimated_usd", sa.String(40)),
        sa.Column("counted_prompt_tokens", sa.Integer()),
        sa.Column("counted_completion_tokens", sa.Integer()),
        sa.ForeignKeyConstraint(["row_id"], ["rows.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_spend_created_at", "spend", ["created_at"])
    op.create_index("ix_spend_reference", "spend", ["reference"])
    op.create_index("ix_spend_row_id", "spend", ["row_id"])
    op.create_table(
        "spend_totals",
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("max_usd", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("scope", "subject", "month"),
    )
    op.create_table(
        "rescued_entries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("spend_id", sa.Integer()),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("remote_status", sa.String(30)),
        sa.Column("input_file_id", sa.String(200)),
        sa.Column("remote_id", sa.String(200)),
        sa.Column("output_file_id", sa.String(200)),
        sa.Column("error_file_id", sa.String(200)),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
        ),
        sa.ForeignKeyConstraint(["spend_id"], ["spend.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_batches_run_id", "batches", ["run_id"])
    op.create_index("ix_batches_spend_id", "batches", ["spend_id"])
    op.create_index("ix_batches_state", "batches", ["state"])


def _create_training() -> None:
    """Create training jobs, evaluations, and before-and-after comparisons."""
    op.create_table(
        "training_jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("dataset_id", sa.String(32)),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("base_model", sa.String(200), nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("seed", sa.Integer()),
        sa.Column("file_format", sa.String(20), nullable=False),
        sa.Column("separator", sa.String(50)),
        sa.Column("stop", sa.String(50)),
        sa.Column("file_sha256", sa.String(64)),
        sa.Column("version_id", sa.String(32)),
        sa.Column("training_file", sa.String(200)),
        sa.Column("validation_file", sa.String(200)),
        sa.Column("validation_share", sa.Double()),
        sa.Column("parent_id", sa.String(32)),
        sa.Column("file_bytes", sa.Integer()),
        sa.Column("uploaded_bytes", sa.Integer()),
        sa.Column("estimated_usd", sa.String(40)),
        sa.Column("estimated_s", sa.Double()),
        sa.Column("trackers", sa.JSON(none_as_null=True)),
        sa.Column("status", sa.String(30), nullable=False),
        sa.Column("requested_action", sa.String(10)),
        sa.Column("remote_id", sa.String(200)),
        sa.Column("fine_tuned_model", sa.String(200)),
        sa.Column("error", sa.Text()),
        sa.Column("next_step", sa.Text()),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("trained_tokens", sa.Integer()),
        sa.Column("n_examples", sa.Integer()),
        sa.Column("estimated_finish", sa.DateTime(timezone=True)),
        sa.Column("queue_position", sa.Integer()),
        sa.Column("estimated_start", sa.DateTime(timezone=True)),
        sa.Column("training_s", sa.Double()),
        sa.Column("running_since", sa.DateTime(timezone=True)),
        sa.Column("results_csv", sa.Text()),
        sa.Column("cost_usd", sa.String(40)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_training_jobs_file_sha256", "training_jobs", ["file_sha256"])
    op.create_index("ix_training_jobs_parent_id", "training_jobs", ["parent_id"])
    op.create_index("ix_training_jobs_status", "training_jobs", ["status"])
    op.create_table(
        "training_events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("remote_id", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.String(10), nullable=False),
        sa.Column("type", sa.String(30), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["training_jobs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "remote_id"),
    )
    op.create_index("ix_training_events_job_id", "training_events", ["job_id"])
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("remote_id", sa.String(200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["training_jobs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "remote_id"),
    )
    op.create_index("ix_checkpoints_job_id", "checkpoints", ["job_id"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32)),
        sa.Column("dataset_id", sa.String(32), nullable=False),
        sa.Column("version_id", sa.String(32)),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])
    op.create_index("ix_evaluations_state", "evaluations", ["state"])
    op.create_table(
        "evaluation_answers",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("evaluation_id", sa.String(32), nullable=False),
        sa.Column("row_key", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("finish_reason", sa.String(30)),
        sa.Column("reason", sa.Text()),
        sa.Column("correct", sa.Boolean()),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("evaluation_id", "row_key"),
    )
    op.create_table(
        "before_after",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("source", sa.String(20)),
        sa.Column("settings", sa.JSON(none_as_null=True)),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["training_jobs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id"),
    )
    op.create_index("ix_before_after_state", "before_after", ["state"])
    op.create_table(
        "before_after_answers",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("before_after_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(10), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text()),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("story_id", sa.String(32)),
        sa.ForeignKeyConstraint(
            ["before_after_id"],
            ["before_after.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("before_after_id", "position", "side"),
    )


def _create_stories() -> None:
    """Create stories, votes, tours, and the workers' heartbeats."""
    op.create_table(
        "stories",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(30)),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("first_text_s", sa.Double()),
        sa.Column("duration_s", sa.Double()),
        sa.Column("requested_model", sa.String(200)),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.String(40)),
        sa.Column("error", sa.Text()),
        sa.Column("edited_text", sa.Text()),
        sa.Column("stars", sa.Integer()),
        sa.Column("liked", sa.Boolean()),
        sa.Column("tags", sa.JSON(none_as_null=True)),
        sa.Column("column_values", sa.JSON(none_as_null=True)),
        sa.Column("round_id", sa.String(32)),
        sa.Column("step", sa.String(20)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_stories_created_at", "stories", ["created_at"])
    op.create_index("ix_stories_round_id", "stories", ["round_id"])
    op.create_table(
        "votes",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("round_id", sa.String(32), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("story_ids", sa.JSON(), nullable=False),
        sa.Column("winner_id", sa.String(32)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("round_id", "actor"),
    )
    op.create_index("ix_votes_round_id", "votes", ["round_id"])
    op.create_table(
        "tours",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("step", sa.String(20), nullable=False),
        sa.Column("dataset_id", sa.String(32)),
        sa.Column("job_id", sa.String(32)),
        sa.Column("story_id", sa.String(32)),
        sa.Column("language", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_tours_state", "tours", ["state"])
    op.create_table(
        "worker_heartbeats",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("process", sa.String(100), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
