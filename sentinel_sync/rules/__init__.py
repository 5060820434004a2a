"""Decisions: plain code without clock, disk, socket, log or await."""
