"""What can be asked of a fleet, and how its answers read."""
