"""Releases and installed models on disk: catalogue, keys, the shelf that the runtime opens."""
