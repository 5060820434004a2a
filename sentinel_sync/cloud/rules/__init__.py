"""What an answer means, when to come back, what to send next of an upload; no I/O."""
