"""Shadow: while an old model still answers at its provider, the engine relays a program's calls to it, and lets a new
model answer a share of them too, in the background.

Begin with `relay.py`, which handles a call; `copies.py` asks the new model; `shadow_store.py` keeps both in engine.db;
`api.py` has the endpoints for the studio, which compares the answers.
"""
