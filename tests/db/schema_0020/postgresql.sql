CREATE TABLE alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE answers (
    id integer NOT NULL,
    evaluation_id character varying(32) NOT NULL,
    row_key character varying(64) NOT NULL,
    prompt text NOT NULL,
    expected text NOT NULL,
    text text,
    finish_reason character varying(30),
    reason text,
    "right" boolean
);
CREATE SEQUENCE answers_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE answers_id_seq OWNED BY answers.id;
CREATE TABLE batches (
    id character varying(32) NOT NULL,
    run_id character varying(32) NOT NULL,
    state character varying(20) NOT NULL,
    reason text,
    status character varying(30),
    input_file character varying(200),
    remote_id character varying(200),
    output_file character varying(200),
    error_file character varying(200),
    total integer NOT NULL,
    completed integer NOT NULL,
    failed integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    spend_id integer
);
CREATE TABLE budgets (
    id character varying(32) NOT NULL,
    scope character varying(10) NOT NULL,
    subject character varying(100) NOT NULL,
    amount_usd character varying(40) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL
);
CREATE TABLE checkpoints (
    id integer NOT NULL,
    job_id character varying(32) NOT NULL,
    remote_id character varying(200) NOT NULL,
    step integer NOT NULL,
    model character varying(200) NOT NULL,
    metrics json NOT NULL,
    created_at timestamp with time zone
);
CREATE SEQUENCE checkpoints_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE checkpoints_id_seq OWNED BY checkpoints.id;
CREATE TABLE comparison_answers (
    id integer NOT NULL,
    comparison_id character varying(32) NOT NULL,
    "position" integer NOT NULL,
    side character varying(10) NOT NULL,
    prompt text NOT NULL,
    expected text,
    state character varying(20) NOT NULL,
    reason text,
    story_id character varying(32)
);
CREATE SEQUENCE comparison_answers_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE comparison_answers_id_seq OWNED BY comparison_answers.id;
CREATE TABLE comparisons (
    id character varying(32) NOT NULL,
    job_id character varying(32) NOT NULL,
    state character varying(20) NOT NULL,
    source character varying(20),
    settings json,
    reason text,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    created_by character varying(100) NOT NULL
);
CREATE TABLE dataset_versions (
    id character varying(32) NOT NULL,
    dataset_id character varying(32) NOT NULL,
    number integer NOT NULL,
    note text NOT NULL,
    sha256 character varying(64) NOT NULL,
    settings json NOT NULL,
    n_train integer NOT NULL,
    n_validation integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL
);
CREATE TABLE datasets (
    id character varying(32) NOT NULL,
    name character varying(200) NOT NULL,
    source character varying(20) NOT NULL,
    columns json NOT NULL,
    recipe json,
    created_at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL,
    recipe_id character varying(32),
    filled integer DEFAULT 0 NOT NULL,
    parts json,
    chat_system text,
    prompt_separator character varying(20) DEFAULT ','::character varying NOT NULL
);
CREATE TABLE evaluations (
    id character varying(32) NOT NULL,
    job_id character varying(32),
    dataset_id character varying(32) NOT NULL,
    version_id character varying(32),
    provider character varying(50) NOT NULL,
    model character varying(200) NOT NULL,
    kind character varying(20) NOT NULL,
    settings json NOT NULL,
    state character varying(20) NOT NULL,
    reason text,
    total integer NOT NULL,
    metrics json,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    created_by character varying(100) NOT NULL
);
CREATE TABLE own_prices (
    id character varying(32) NOT NULL,
    provider character varying(50) NOT NULL,
    model character varying(200) NOT NULL,
    what character varying(20) NOT NULL,
    amount character varying(40) NOT NULL,
    currency character varying(3) NOT NULL,
    unit character varying(10) NOT NULL,
    valid_from timestamp with time zone,
    valid_until timestamp with time zone,
    note text NOT NULL,
    deleted_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL
);
CREATE TABLE recipes (
    id character varying(32) NOT NULL,
    family character varying(32) NOT NULL,
    version integer NOT NULL,
    name character varying(200) NOT NULL,
    recipe json NOT NULL,
    copied_from character varying(32),
    deleted_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL
);
CREATE TABLE rescued_entries (
    id character varying(32) NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE rows (
    id integer NOT NULL,
    dataset_id character varying(32) NOT NULL,
    key character varying(64) NOT NULL,
    "position" integer NOT NULL,
    repeat integer NOT NULL,
    column_values json NOT NULL,
    prompt text NOT NULL,
    state character varying(20) NOT NULL,
    reason text,
    text text,
    finish_reason character varying(30),
    prompt_tokens integer,
    completion_tokens integer,
    cost_usd character varying(40),
    run_id character varying(32),
    updated_at timestamp with time zone NOT NULL,
    claimed_by character varying(64),
    batch_id character varying(32),
    original_text text,
    state_before character varying(20),
    split character varying(20)
);
CREATE SEQUENCE rows_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE rows_id_seq OWNED BY rows.id;
CREATE TABLE runs (
    id character varying(32) NOT NULL,
    dataset_id character varying(32) NOT NULL,
    state character varying(20) NOT NULL,
    reason text,
    note text,
    provider character varying(50) NOT NULL,
    model character varying(200) NOT NULL,
    budget_usd character varying(40),
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    created_by character varying(100) NOT NULL,
    mode character varying(10) DEFAULT 'live'::character varying NOT NULL,
    scope character varying(10) DEFAULT 'all'::character varying NOT NULL,
    not_before timestamp with time zone
);
CREATE TABLE speed_measurements (
    id integer NOT NULL,
    model character varying(200) NOT NULL,
    tokens_per_s double precision NOT NULL,
    at timestamp with time zone NOT NULL,
    created_by character varying(100) NOT NULL
);
CREATE SEQUENCE speed_measurements_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE speed_measurements_id_seq OWNED BY speed_measurements.id;
CREATE TABLE spend (
    id integer NOT NULL,
    at timestamp with time zone NOT NULL,
    actor character varying(100) NOT NULL,
    page character varying(20) NOT NULL,
    provider character varying(50) NOT NULL,
    model character varying(200) NOT NULL,
    reference character varying(64) NOT NULL,
    prompt_tokens integer,
    completion_tokens integer,
    cost_usd character varying(40),
    estimated_usd character varying(40),
    counted_prompt_tokens integer,
    counted_completion_tokens integer,
    row_id integer,
    sent_at timestamp with time zone
);
CREATE SEQUENCE spend_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE spend_id_seq OWNED BY spend.id;
CREATE TABLE spend_totals (
    scope character varying(10) NOT NULL,
    subject character varying(100) NOT NULL,
    month character varying(7) NOT NULL,
    at_most_usd character varying(40) NOT NULL
);
CREATE TABLE stories (
    id character varying(32) NOT NULL,
    at timestamp with time zone NOT NULL,
    actor character varying(100) NOT NULL,
    provider character varying(50) NOT NULL,
    model character varying(200) NOT NULL,
    prompt text NOT NULL,
    parameters json NOT NULL,
    text text NOT NULL,
    finish_reason character varying(30),
    completion_tokens integer,
    first_text_s double precision,
    duration_s double precision,
    asked_model character varying(200),
    prompt_tokens integer,
    cost_usd character varying(40),
    error text,
    edited_text text,
    stars integer,
    liked boolean,
    tags json,
    column_values json,
    round_id character varying(32),
    step character varying(20),
    deleted_at timestamp with time zone
);
CREATE TABLE tours (
    id character varying(32) NOT NULL,
    state character varying(20) NOT NULL,
    step character varying(20) NOT NULL,
    dataset_id character varying(32),
    job_id character varying(32),
    story_id character varying(32),
    reason text,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    created_by character varying(100) NOT NULL,
    language character varying(10) DEFAULT 'zh_CN'::character varying NOT NULL
);
CREATE TABLE training_events (
    id integer NOT NULL,
    job_id character varying(32) NOT NULL,
    remote_id character varying(200) NOT NULL,
    at timestamp with time zone NOT NULL,
    level character varying(10) NOT NULL,
    type character varying(30) NOT NULL,
    message text NOT NULL
);
CREATE SEQUENCE training_events_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE training_events_id_seq OWNED BY training_events.id;
CREATE TABLE training_jobs (
    id character varying(32) NOT NULL,
    dataset_id character varying(32),
    name character varying(200) NOT NULL,
    provider character varying(50) NOT NULL,
    base_model character varying(200) NOT NULL,
    suffix character varying(64),
    hyperparameters json NOT NULL,
    seed integer,
    file_format character varying(20) NOT NULL,
    separator character varying(50),
    stop character varying(50),
    file_sha256 character varying(64),
    training_file character varying(200),
    status character varying(30) NOT NULL,
    stop_requested character varying(10),
    remote_id character varying(200),
    fine_tuned_model character varying(200),
    error text,
    next_step text,
    trained_tokens integer,
    n_examples integer,
    estimated_finish timestamp with time zone,
    results_csv text,
    cost_usd character varying(40),
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    created_by character varying(100) NOT NULL,
    version_id character varying(32),
    validation_file character varying(200),
    validation_share double precision,
    parent_id character varying(32),
    file_bytes integer,
    uploaded_bytes integer,
    estimated_usd character varying(40),
    estimated_s double precision,
    trackers json,
    queue_position integer,
    estimated_start timestamp with time zone,
    training_s double precision,
    running_since timestamp with time zone,
    not_before timestamp with time zone
);
CREATE TABLE version_examples (
    id integer NOT NULL,
    version_id character varying(32) NOT NULL,
    "position" integer NOT NULL,
    split character varying(20) NOT NULL,
    row_key character varying(64) NOT NULL,
    column_values json NOT NULL,
    prompt text NOT NULL,
    completion text NOT NULL
);
CREATE SEQUENCE version_examples_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE version_examples_id_seq OWNED BY version_examples.id;
CREATE TABLE votes (
    id character varying(32) NOT NULL,
    at timestamp with time zone NOT NULL,
    actor character varying(100) NOT NULL,
    round_id character varying(32) NOT NULL,
    blind boolean NOT NULL,
    "order" json NOT NULL,
    winner character varying(32)
);
CREATE TABLE workers (
    id character varying(32) NOT NULL,
    host character varying(200) NOT NULL,
    process character varying(100) NOT NULL,
    started_at timestamp with time zone NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    running integer NOT NULL
);
ALTER TABLE ONLY answers ALTER COLUMN id SET DEFAULT nextval('answers_id_seq'::regclass);
ALTER TABLE ONLY checkpoints ALTER COLUMN id SET DEFAULT nextval('checkpoints_id_seq'::regclass);
ALTER TABLE ONLY comparison_answers ALTER COLUMN id SET DEFAULT nextval('comparison_answers_id_seq'::regclass);
ALTER TABLE ONLY rows ALTER COLUMN id SET DEFAULT nextval('rows_id_seq'::regclass);
ALTER TABLE ONLY speed_measurements ALTER COLUMN id SET DEFAULT nextval('speed_measurements_id_seq'::regclass);
ALTER TABLE ONLY spend ALTER COLUMN id SET DEFAULT nextval('spend_id_seq'::regclass);
ALTER TABLE ONLY training_events ALTER COLUMN id SET DEFAULT nextval('training_events_id_seq'::regclass);
ALTER TABLE ONLY version_examples ALTER COLUMN id SET DEFAULT nextval('version_examples_id_seq'::regclass);
INSERT INTO alembic_version VALUES ('0020');
SELECT pg_catalog.setval('answers_id_seq', 1, false);
SELECT pg_catalog.setval('checkpoints_id_seq', 1, false);
SELECT pg_catalog.setval('comparison_answers_id_seq', 1, false);
SELECT pg_catalog.setval('rows_id_seq', 1, false);
SELECT pg_catalog.setval('speed_measurements_id_seq', 1, false);
SELECT pg_catalog.setval('spend_id_seq', 1, false);
SELECT pg_catalog.setval('training_events_id_seq', 1, false);
SELECT pg_catalog.setval('version_examples_id_seq', 1, false);
ALTER TABLE ONLY alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY answers
    ADD CONSTRAINT answers_evaluation_id_row_key_key UNIQUE (evaluation_id, row_key);
ALTER TABLE ONLY answers
    ADD CONSTRAINT answers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (id);
ALTER TABLE ONLY budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY budgets
    ADD CONSTRAINT budgets_scope_subject_key UNIQUE (scope, subject);
ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_job_id_remote_id_key UNIQUE (job_id, remote_id);
ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (id);
ALTER TABLE ONLY comparison_answers
    ADD CONSTRAINT comparison_answers_comparison_id_position_side_key UNIQUE (comparison_id, "position", side);
ALTER TABLE ONLY comparison_answers
    ADD CONSTRAINT comparison_answers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY comparisons
    ADD CONSTRAINT comparisons_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY comparisons
    ADD CONSTRAINT comparisons_pkey PRIMARY KEY (id);
ALTER TABLE ONLY dataset_versions
    ADD CONSTRAINT dataset_versions_dataset_id_number_key UNIQUE (dataset_id, number);
ALTER TABLE ONLY dataset_versions
    ADD CONSTRAINT dataset_versions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY datasets
    ADD CONSTRAINT datasets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY evaluations
    ADD CONSTRAINT evaluations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY own_prices
    ADD CONSTRAINT own_prices_pkey PRIMARY KEY (id);
ALTER TABLE ONLY recipes
    ADD CONSTRAINT recipes_family_version_key UNIQUE (family, version);
ALTER TABLE ONLY recipes
    ADD CONSTRAINT recipes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rescued_entries
    ADD CONSTRAINT rescued_entries_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rows
    ADD CONSTRAINT rows_dataset_id_key_key UNIQUE (dataset_id, key);
ALTER TABLE ONLY rows
    ADD CONSTRAINT rows_pkey PRIMARY KEY (id);
ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY speed_measurements
    ADD CONSTRAINT speed_measurements_pkey PRIMARY KEY (id);
ALTER TABLE ONLY spend
    ADD CONSTRAINT spend_pkey PRIMARY KEY (id);
ALTER TABLE ONLY spend_totals
    ADD CONSTRAINT spend_totals_pkey PRIMARY KEY (scope, subject, month);
ALTER TABLE ONLY stories
    ADD CONSTRAINT stories_pkey PRIMARY KEY (id);
ALTER TABLE ONLY tours
    ADD CONSTRAINT tours_pkey PRIMARY KEY (id);
ALTER TABLE ONLY training_events
    ADD CONSTRAINT training_events_job_id_remote_id_key UNIQUE (job_id, remote_id);
ALTER TABLE ONLY training_events
    ADD CONSTRAINT training_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY training_jobs
    ADD CONSTRAINT training_jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY version_examples
    ADD CONSTRAINT version_examples_pkey PRIMARY KEY (id);
ALTER TABLE ONLY version_examples
    ADD CONSTRAINT version_examples_version_id_position_key UNIQUE (version_id, "position");
ALTER TABLE ONLY votes
    ADD CONSTRAINT votes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY votes
    ADD CONSTRAINT votes_round_id_actor_key UNIQUE (round_id, actor);
ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);
CREATE INDEX ix_batches_run_id ON batches USING btree (run_id);
CREATE INDEX ix_batches_spend_id ON batches USING btree (spend_id);
CREATE INDEX ix_batches_state ON batches USING btree (state);
CREATE INDEX ix_checkpoints_job_id ON checkpoints USING btree (job_id);
CREATE INDEX ix_comparisons_state ON comparisons USING btree (state);
CREATE INDEX ix_dataset_versions_dataset_id ON dataset_versions USING btree (dataset_id);
CREATE INDEX ix_evaluations_job_id ON evaluations USING btree (job_id);
CREATE INDEX ix_evaluations_state ON evaluations USING btree (state);
CREATE INDEX ix_recipes_family ON recipes USING btree (family);
CREATE INDEX ix_rows_batch_id ON rows USING btree (batch_id);
CREATE INDEX ix_runs_dataset_id ON runs USING btree (dataset_id);
CREATE INDEX ix_runs_state ON runs USING btree (state);
CREATE INDEX ix_speed_measurements_at ON speed_measurements USING btree (at);
CREATE INDEX ix_spend_at ON spend USING btree (at);
CREATE INDEX ix_spend_reference ON spend USING btree (reference);
CREATE INDEX ix_spend_row_id ON spend USING btree (row_id);
CREATE INDEX ix_stories_at ON stories USING btree (at);
CREATE INDEX ix_stories_round_id ON stories USING btree (round_id);
CREATE INDEX ix_tours_state ON tours USING btree (state);
CREATE INDEX ix_training_events_job_id ON training_events USING btree (job_id);
CREATE INDEX ix_training_jobs_file_sha256 ON training_jobs USING btree (file_sha256);
CREATE INDEX ix_training_jobs_parent_id ON training_jobs USING btree (parent_id);
CREATE INDEX ix_training_jobs_status ON training_jobs USING btree (status);
CREATE INDEX ix_votes_round_id ON votes USING btree (round_id);
CREATE INDEX rows_by_place ON rows USING btree (dataset_id, "position");
CREATE INDEX rows_by_state ON rows USING btree (dataset_id, state, updated_at);
ALTER TABLE ONLY answers
    ADD CONSTRAINT answers_evaluation_id_fkey FOREIGN KEY (evaluation_id) REFERENCES evaluations(id);
ALTER TABLE ONLY batches
    ADD CONSTRAINT batch_spend FOREIGN KEY (spend_id) REFERENCES spend(id) ON DELETE SET NULL;
ALTER TABLE ONLY batches
    ADD CONSTRAINT batches_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(id);
ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_job_id_fkey FOREIGN KEY (job_id) REFERENCES training_jobs(id);
ALTER TABLE ONLY comparison_answers
    ADD CONSTRAINT comparison_answers_comparison_id_fkey FOREIGN KEY (comparison_id) REFERENCES comparisons(id);
ALTER TABLE ONLY comparisons
    ADD CONSTRAINT comparisons_job_id_fkey FOREIGN KEY (job_id) REFERENCES training_jobs(id);
ALTER TABLE ONLY dataset_versions
    ADD CONSTRAINT dataset_versions_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES datasets(id);
ALTER TABLE ONLY rows
    ADD CONSTRAINT rows_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES datasets(id);
ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES datasets(id);
ALTER TABLE ONLY spend
    ADD CONSTRAINT spend_row FOREIGN KEY (row_id) REFERENCES rows(id) ON DELETE SET NULL;
ALTER TABLE ONLY training_events
    ADD CONSTRAINT training_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES training_jobs(id);
ALTER TABLE ONLY version_examples
    ADD CONSTRAINT version_examples_version_id_fkey FOREIGN KEY (version_id) REFERENCES dataset_versions(id);
