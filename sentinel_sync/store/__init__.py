"""What lasts: one SQLite file with the outbox and documents, its lock, its repair, and the sender that drains it.

The door is `store.Store`.
It never acknowledges to a caller what is not on disk yet, and never knows what an item means.
"""
