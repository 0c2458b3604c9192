"""Background work: the worker, its kinds of jobs and its heartbeat. The only package that knows DBOS."""
