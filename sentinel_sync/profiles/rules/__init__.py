"""How driver profiles merge, and which values their fields may have; no I/O."""
