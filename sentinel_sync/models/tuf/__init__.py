"""Releases out of a repository of The Update Framework (docs/tuf.md); python-tuf is imported in `refresh` alone."""
