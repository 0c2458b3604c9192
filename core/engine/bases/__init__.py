"""The engine's own base models: added from a file, a folder or a hub, prepared in the background, and removed again.

Start reading at `library`; `prepare` is the process that downloads, converts and checks one base.
"""
