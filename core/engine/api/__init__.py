"""The engine's HTTP API, which follows OpenAI's: routes, files, jobs, models, errors."""
