CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0020');
CREATE TABLE answers (
	id INTEGER NOT NULL,
	evaluation_id VARCHAR(32) NOT NULL,
	row_key VARCHAR(64) NOT NULL,
	prompt TEXT NOT NULL,
	expected TEXT NOT NULL,
	text TEXT,
	finish_reason VARCHAR(30),
	reason TEXT,
	"right" BOOLEAN,
	PRIMARY KEY (id),
	UNIQUE (evaluation_id, row_key),
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
CREATE TABLE "batches" (
	id VARCHAR(32) NOT NULL,
	run_id VARCHAR(32) NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT,
	status VARCHAR(30),
	input_file VARCHAR(200),
	remote_id VARCHAR(200),
	output_file VARCHAR(200),
	error_file VARCHAR(200),
	total INTEGER NOT NULL,
	completed INTEGER NOT NULL,
	failed INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	spend_id INTEGER,
	PRIMARY KEY (id),
	CONSTRAINT batch_spend FOREIGN KEY(spend_id) REFERENCES spend (id) ON DELETE SET NULL,
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE budgets (
	id VARCHAR(32) NOT NULL,
	scope VARCHAR(10) NOT NULL,
	subject VARCHAR(100) NOT NULL,
	amount_usd VARCHAR(40) NOT NULL,
	created_at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (scope, subject)
);
CREATE TABLE checkpoints (
	id INTEGER NOT NULL,
	job_id VARCHAR(32) NOT NULL,
	remote_id VARCHAR(200) NOT NULL,
	step INTEGER NOT NULL,
	model VARCHAR(200) NOT NULL,
	metrics JSON NOT NULL,
	created_at DATETIME,
	PRIMARY KEY (id),
	UNIQUE (job_id, remote_id),
	FOREIGN KEY(job_id) REFERENCES training_jobs (id)
);
CREATE TABLE comparison_answers (
	id INTEGER NOT NULL,
	comparison_id VARCHAR(32) NOT NULL,
	position INTEGER NOT NULL,
	side VARCHAR(10) NOT NULL,
	prompt TEXT NOT NULL,
	expected TEXT,
	state VARCHAR(20) NOT NULL,
	reason TEXT,
	story_id VARCHAR(32),
	PRIMARY KEY (id),
	UNIQUE (comparison_id, position, side),
	FOREIGN KEY(comparison_id) REFERENCES comparisons (id)
);
CREATE TABLE comparisons (
	id VARCHAR(32) NOT NULL,
	job_id VARCHAR(32) NOT NULL,
	state VARCHAR(20) NOT NULL,
	source VARCHAR(20),
	settings JSON,
	reason TEXT,
	created_at DATETIME NOT NULL,
	finished_at DATETIME,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (job_id),
	FOREIGN KEY(job_id) REFERENCES training_jobs (id)
);
CREATE TABLE dataset_versions (
	id VARCHAR(32) NOT NULL,
	dataset_id VARCHAR(32) NOT NULL,
	number INTEGER NOT NULL,
	note TEXT NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	settings JSON NOT NULL,
	n_train INTEGER NOT NULL,
	n_validation INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (dataset_id, number),
	FOREIGN KEY(dataset_id) REFERENCES datasets (id)
);
CREATE TABLE datasets (
	id VARCHAR(32) NOT NULL,
	name VARCHAR(200) NOT NULL,
	source VARCHAR(20) NOT NULL,
	columns JSON NOT NULL,
	recipe JSON,
	created_at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL, recipe_id VARCHAR(32), filled INTEGER DEFAULT '0' NOT NULL, parts JSON, chat_system TEXT, prompt_separator VARCHAR(20) DEFAULT ',' NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE evaluations (
	id VARCHAR(32) NOT NULL,
	job_id VARCHAR(32),
	dataset_id VARCHAR(32) NOT NULL,
	version_id VARCHAR(32),
	provider VARCHAR(50) NOT NULL,
	model VARCHAR(200) NOT NULL,
	kind VARCHAR(20) NOT NULL,
	settings JSON NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT,
	total INTEGER NOT NULL,
	metrics JSON,
	created_at DATETIME NOT NULL,
	finished_at DATETIME,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE own_prices (
	id VARCHAR(32) NOT NULL,
	provider VARCHAR(50) NOT NULL,
	model VARCHAR(200) NOT NULL,
	what VARCHAR(20) NOT NULL,
	amount VARCHAR(40) NOT NULL,
	currency VARCHAR(3) NOT NULL,
	unit VARCHAR(10) NOT NULL,
	valid_from DATETIME,
	valid_until DATETIME,
	note TEXT NOT NULL,
	deleted_at DATETIME,
	created_at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE recipes (
	id VARCHAR(32) NOT NULL,
	family VARCHAR(32) NOT NULL,
	version INTEGER NOT NULL,
	name VARCHAR(200) NOT NULL,
	recipe JSON NOT NULL,
	copied_from VARCHAR(32),
	deleted_at DATETIME,
	created_at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (family, version)
);
CREATE TABLE rescued_entries (
	id VARCHAR(32) NOT NULL,
	at DATETIME NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE rows (
	id INTEGER NOT NULL,
	dataset_id VARCHAR(32) NOT NULL,
	"key" VARCHAR(64) NOT NULL,
	position INTEGER NOT NULL,
	repeat INTEGER NOT NULL,
	column_values JSON NOT NULL,
	prompt TEXT NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT,
	text TEXT,
	finish_reason VARCHAR(30),
	prompt_tokens INTEGER,
	completion_tokens INTEGER,
	cost_usd VARCHAR(40),
	run_id VARCHAR(32),
	updated_at DATETIME NOT NULL, claimed_by VARCHAR(64), batch_id VARCHAR(32), original_text TEXT, state_before VARCHAR(20), split VARCHAR(20),
	PRIMARY KEY (id),
	FOREIGN KEY(dataset_id) REFERENCES datasets (id),
	UNIQUE (dataset_id, "key")
);
CREATE TABLE runs (
	id VARCHAR(32) NOT NULL,
	dataset_id VARCHAR(32) NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT,
	note TEXT,
	provider VARCHAR(50) NOT NULL,
	model VARCHAR(200) NOT NULL,
	budget_usd VARCHAR(40),
	created_at DATETIME NOT NULL,
	started_at DATETIME,
	finished_at DATETIME,
	created_by VARCHAR(100) NOT NULL, mode VARCHAR(10) DEFAULT 'live' NOT NULL, scope VARCHAR(10) DEFAULT 'all' NOT NULL, not_before DATETIME,
	PRIMARY KEY (id),
	FOREIGN KEY(dataset_id) REFERENCES datasets (id)
);
CREATE TABLE speed_measurements (
	id INTEGER NOT NULL,
	model VARCHAR(200) NOT NULL,
	tokens_per_s DOUBLE NOT NULL,
	at DATETIME NOT NULL,
	created_by VARCHAR(100) NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE "spend" (
	id INTEGER NOT NULL,
	at DATETIME NOT NULL,
	actor VARCHAR(100) NOT NULL,
	page VARCHAR(20) NOT NULL,
	provider VARCHAR(50) NOT NULL,
	model VARCHAR(200) NOT NULL,
	reference VARCHAR(64) NOT NULL,
	prompt_tokens INTEGER,
	completion_tokens INTEGER,
	cost_usd VARCHAR(40),
	estimated_usd VARCHAR(40),
	counted_prompt_tokens INTEGER,
	counted_completion_tokens INTEGER,
	row_id INTEGER,
	sent_at DATETIME,
	PRIMARY KEY (id),
	CONSTRAINT spend_row FOREIGN KEY(row_id) REFERENCES rows (id) ON DELETE SET NULL
);
CREATE TABLE spend_totals (
	scope VARCHAR(10) NOT NULL,
	subject VARCHAR(100) NOT NULL,
	month VARCHAR(7) NOT NULL,
	at_most_usd VARCHAR(40) NOT NULL,
	PRIMARY KEY (scope, subject, month)
);
CREATE TABLE stories (
	id VARCHAR(32) NOT NULL,
	at DATETIME NOT NULL,
	actor VARCHAR(100) NOT NULL,
	provider VARCHAR(50) NOT NULL,
	model VARCHAR(200) NOT NULL,
	prompt TEXT NOT NULL,
	parameters JSON NOT NULL,
	text TEXT NOT NULL,
	finish_reason VARCHAR(30),
	completion_tokens INTEGER,
	first_text_s DOUBLE,
	duration_s DOUBLE, asked_model VARCHAR(200), prompt_tokens INTEGER, cost_usd VARCHAR(40), error TEXT, edited_text TEXT, stars INTEGER, liked BOOLEAN, tags JSON, column_values JSON, round_id VARCHAR(32), step VARCHAR(20), deleted_at DATETIME,
	PRIMARY KEY (id)
);
CREATE TABLE tours (
	id VARCHAR(32) NOT NULL,
	state VARCHAR(20) NOT NULL,
	step VARCHAR(20) NOT NULL,
	dataset_id VARCHAR(32),
	job_id VARCHAR(32),
	story_id VARCHAR(32),
	reason TEXT,
	created_at DATETIME NOT NULL,
	finished_at DATETIME,
	created_by VARCHAR(100) NOT NULL, language VARCHAR(10) DEFAULT 'zh_CN' NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE training_events (
	id INTEGER NOT NULL,
	job_id VARCHAR(32) NOT NULL,
	remote_id VARCHAR(200) NOT NULL,
	at DATETIME NOT NULL,
	level VARCHAR(10) NOT NULL,
	type VARCHAR(30) NOT NULL,
	message TEXT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(job_id) REFERENCES training_jobs (id),
	UNIQUE (job_id, remote_id)
);
CREATE TABLE training_jobs (
	id VARCHAR(32) NOT NULL,
	dataset_id VARCHAR(32),
	name VARCHAR(200) NOT NULL,
	provider VARCHAR(50) NOT NULL,
	base_model VARCHAR(200) NOT NULL,
	suffix VARCHAR(64),
	hyperparameters JSON NOT NULL,
	seed INTEGER,
	file_format VARCHAR(20) NOT NULL,
	separator VARCHAR(50),
	stop VARCHAR(50),
	file_sha256 VARCHAR(64),
	training_file VARCHAR(200),
	status VARCHAR(30) NOT NULL,
	stop_requested VARCHAR(10),
	remote_id VARCHAR(200),
	fine_tuned_model VARCHAR(200),
	error TEXT,
	next_step TEXT,
	trained_tokens INTEGER,
	n_examples INTEGER,
	estimated_finish DATETIME,
	results_csv TEXT,
	cost_usd VARCHAR(40),
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	finished_at DATETIME,
	created_by VARCHAR(100) NOT NULL, version_id VARCHAR(32), validation_file VARCHAR(200), validation_share DOUBLE, parent_id VARCHAR(32), file_bytes INTEGER, uploaded_bytes INTEGER, estimated_usd VARCHAR(40), estimated_s DOUBLE, trackers JSON, queue_position INTEGER, estimated_start DATETIME, training_s DOUBLE, running_since DATETIME, not_before DATETIME,
	PRIMARY KEY (id)
);
CREATE TABLE version_examples (
	id INTEGER NOT NULL,
	version_id VARCHAR(32) NOT NULL,
	position INTEGER NOT NULL,
	split VARCHAR(20) NOT NULL,
	row_key VARCHAR(64) NOT NULL,
	column_values JSON NOT NULL,
	prompt TEXT NOT NULL,
	completion TEXT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (version_id, position),
	FOREIGN KEY(version_id) REFERENCES dataset_versions (id)
);
CREATE TABLE votes (
	id VARCHAR(32) NOT NULL,
	at DATETIME NOT NULL,
	actor VARCHAR(100) NOT NULL,
	round_id VARCHAR(32) NOT NULL,
	blind BOOLEAN NOT NULL,
	"order" JSON NOT NULL,
	winner VARCHAR(32),
	PRIMARY KEY (id),
	UNIQUE (round_id, actor)
);
CREATE TABLE workers (
	id VARCHAR(32) NOT NULL,
	host VARCHAR(200) NOT NULL,
	process VARCHAR(100) NOT NULL,
	started_at DATETIME NOT NULL,
	beat_at DATETIME NOT NULL,
	running INTEGER NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX ix_stories_at ON stories (at);
CREATE INDEX ix_tours_state ON tours (state);
CREATE INDEX ix_training_jobs_file_sha256 ON training_jobs (file_sha256);
CREATE INDEX ix_training_jobs_status ON training_jobs (status);
CREATE INDEX rows_by_state ON rows (dataset_id, state, updated_at);
CREATE INDEX rows_by_place ON rows (dataset_id, position);
CREATE INDEX ix_runs_dataset_id ON runs (dataset_id);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_training_events_job_id ON training_events (job_id);
CREATE INDEX ix_rows_batch_id ON rows (batch_id);
CREATE INDEX ix_recipes_family ON recipes (family);
CREATE INDEX ix_dataset_versions_dataset_id ON dataset_versions (dataset_id);
CREATE INDEX ix_training_jobs_parent_id ON training_jobs (parent_id);
CREATE INDEX ix_stories_round_id ON stories (round_id);
CREATE INDEX ix_checkpoints_job_id ON checkpoints (job_id);
CREATE INDEX ix_evaluations_job_id ON evaluations (job_id);
CREATE INDEX ix_evaluations_state ON evaluations (state);
CREATE INDEX ix_votes_round_id ON votes (round_id);
CREATE INDEX ix_speed_measurements_at ON speed_measurements (at);
CREATE INDEX ix_spend_reference ON spend (reference);
CREATE INDEX ix_spend_at ON spend (at);
CREATE INDEX ix_spend_row_id ON spend (row_id);
CREATE INDEX ix_batches_state ON batches (state);
CREATE INDEX ix_batches_run_id ON batches (run_id);
CREATE INDEX ix_batches_spend_id ON batches (spend_id);
CREATE INDEX ix_comparisons_state ON comparisons (state);
