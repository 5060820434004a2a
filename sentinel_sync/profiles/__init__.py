"""Driver profiles: sealed, merged over the vehicles of a fleet, and forgotten when the driver asks.

The door is `profile_synchronizer.ProfileSynchronizer`.
It never sends a profile that is not encrypted, and never puts a driver's id into a log.
"""
