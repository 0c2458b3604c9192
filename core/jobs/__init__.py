"""Background work: the worker, its kinds of jobs and its heartbeat. The only package that uses DBOS."""
