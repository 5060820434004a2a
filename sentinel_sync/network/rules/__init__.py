"""What a kind of traffic may cost on a link, and how a budget is spent; no I/O."""
