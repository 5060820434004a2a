"""What of a recording leaves, in which order, under which consent; no I/O."""
