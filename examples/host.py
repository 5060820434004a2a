"""A host with a loop of its own: it drives, and stops when it is told to, within its grace.

    python examples/host.py configs/default.yaml

CI checks its types and runs it, on asyncio's loop and on uvloop's where that is installed.
"""

import asyncio
import gc
import logging
import signal
import sys

from sentinel_sync import SyncAgent


async def drive(agent: SyncAgent, stopping: asyncio.Event) -> None:
    """What the vehicle's runtime does: here one trip, with a sensor that speaks ten times a second."""
    await agent.trips.start_trip(driver_id="driver_123", location={"lat": 37.774929, "lon": -122.419416})
    while not stopping.is_set():
        agent.trips.update_trip(distance_delta=1.5, speed=15.0, risk_score=0.2, alert_urgency="info")
        try:
            async with asyncio.timeout(0.1):
                await stopping.wait()
        except TimeoutError:
            continue
    await agent.trips.end_trip()  # it is durable when this returns


async def main(config: str) -> None:
    """Run until SIGTERM, which is what the ignition's end is here."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with SyncAgent.from_config(config) as agent:
        gc.freeze()  # what was imported by now is not walked again by each full collection
        print("driving", flush=True)
        await drive(agent, stopping)
        left = await agent.drain(deadline=20.0)
        print(f"left for the next start: {left.left}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1]))
