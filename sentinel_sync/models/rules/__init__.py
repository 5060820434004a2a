"""Which release of a model to take, and whether it is genuine; no I/O."""
