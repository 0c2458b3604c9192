"""The engine: a server on your own machine that speaks OpenAI's fine-tuning and inference API, and really trains.

`python -m core.engine --home DIR` starts it. It needs nothing of the dashboard; see docs/engine.md.
"""

VERSION = "1.0.0"
