"""What becomes of an item whose attempt failed, and what goes first when the outbox is full; no I/O."""
