"""OpenAI's Batch API: files of requests that are answered when no other request waits for the models.

Start reading at `runner` (what happens to a batch) and `api` (the endpoints). `batch_store` has the SQL.
"""
