"""What the network may cost now: metered links, data budgets, and what waits for a better one.

The door is `policy.TransferPolicy`: whoever is about to send or fetch asks it.
It never sends anything, and never holds a health probe.
"""
