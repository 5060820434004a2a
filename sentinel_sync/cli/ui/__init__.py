"""What commands draw and say: text, tables, charts, the live view, the log."""
