"""Fleet statistics: what the backend knows of the whole fleet, and what it last said while it is away.

The door is `fleet_manager.FleetManager`.
It never changes anything at the backend: every request is a GET.
"""
