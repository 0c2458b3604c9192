"""Generation runs: claim rows, send requests and record answers, within a concurrency limit and a budget.

Start reading at `executor` (the loop) and `run_store` (the runs in the database).
"""
