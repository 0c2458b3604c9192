"""The engine's HTTP API in OpenAI's shape: routes, files, jobs, models, errors."""
