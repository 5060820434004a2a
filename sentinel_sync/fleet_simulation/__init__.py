"""A fleet in a box: many agents, in a few processes, at any backend, and a page that says what broke first.

`run.py` is the door, which `simulate-fleet` opens. Vehicles are whole agents (`vehicles.py`) with a store and a client
each, or, for numbers that no machine holds, their probes and reports alone (`light.py`). It never touches a fleet that
exists: its fleet's id is its own, made anew for each run.
"""
