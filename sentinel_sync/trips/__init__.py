"""Trips: from the first reading of a drive to the backend's acknowledgement, each exactly once.

The door is `trip_uploader.TripUploader`.
It never stores a driver's own id, nor a place finer than about a kilometre.
"""
