"""What lasts: one SQLite file with the outbox and documents, its lock, its repair."""
