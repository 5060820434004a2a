"""What touches the world and decides nothing: HTTP, SQLite, files, credentials."""
