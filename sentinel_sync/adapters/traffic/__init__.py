"""What may be sent and fetched now: the network's condition, and how much of the data budget is used."""
