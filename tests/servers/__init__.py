"""Servers that nobody on this project wrote, started for a test: interoperability, not agreement with ourselves."""
