"""What `demo` is made of: a city's drives, a vehicle and a cloud as processes of their own, and the check at the end.

Nothing of the agent or the backend is replaced: `vehicle.py` embeds the agent as a vehicle's own software does, and
`cloud.py` runs the reference backend on a real socket. Only the driving takes less time than in a city.
"""
