"""What a trip is: opened, updated, closed, recovered; no I/O."""
