"""Judges any backend by the wire contract: every row, extension by extension, with the exchange that showed it.

Its door is `judge.judge`; `python -m sentinel_sync conformance URL` is the same for a shell. It stands on the contract
alone, works with a fleet and a vehicle of its own, and never touches another's: what it sends is marked by its ids.
"""
