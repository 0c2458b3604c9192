"""POST /v1/responses: OpenAI's Responses API for text and tools, on top of chat completions.

Begin with `api.py`.
"""
