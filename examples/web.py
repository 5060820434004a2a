"""A host that is a FastAPI application: the agent lives as long as the application does.

uvicorn examples.web:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from pydantic import JsonValue

from sentinel_sync import SyncAgent


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Enter the agent with the application, and leave it with it."""
    async with SyncAgent.from_config(os.environ.get("VEHICLE_CONFIG", "configs/default.yaml")) as agent:
        application.state.agent = agent
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/sync")
async def sync(request: Request) -> dict[str, JsonValue]:
    """What waits, and whether the backend is there."""
    agent: SyncAgent = request.app.state.agent
    status = await agent.status()
    return {"status": str(status.connectivity.status), "waiting": status.outbox.waiting}
