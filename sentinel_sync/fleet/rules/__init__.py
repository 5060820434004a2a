"""What may be asked about a fleet, and how answers are read; no I/O."""
