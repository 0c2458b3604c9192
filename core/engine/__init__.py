"""The engine: a local server with OpenAI's fine-tuning and inference API that trains and serves small models.

`python -m core.engine --home DIR` starts it. It does not depend on the studio; see docs/engine.md.
"""

VERSION = "1.0.0"
