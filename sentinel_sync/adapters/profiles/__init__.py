"""Profiles on disk, encrypted, and at the backend."""
