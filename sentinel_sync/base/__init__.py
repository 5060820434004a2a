"""What every feature stands on: clock, errors, supervisor, files, threads, payloads, and what is private.

The doors are the modules themselves; nothing here knows a feature, a backend or a store.
It never decides what is sent.
"""
