"""A generation run: claim rows, send requests, record answers, within a concurrency limit and a budget.

Begin with `executor` (the loop) and `run_store` (the runs in the database).
"""
