"""The application: all routes of the contract over one opened backend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from sentinel_sync.backend import (
    direct,
    fleet,
    health,
    models,
    profiles,
    resumable,
    rollouts,
    scenarios,
    trips,
    vehicles,
)
from sentinel_sync.backend.admission import Admission
from sentinel_sync.backend.bodies import Profile, ScenarioRegistration, Trip, TripBatch, VehicleReport
from sentinel_sync.backend.context import open_backend
from sentinel_sync.backend.documentation import DESCRIPTION, TAGS, TITLE, install_documentation
from sentinel_sync.backend.faults import FaultInjector, FaultList, FaultPlan, faults_router
from sentinel_sync.backend.problems import install_problem_handlers
from sentinel_sync.backend.rollout_steps import RolloutPlan
from sentinel_sync.backend.settings import BackendSettings

CONTRACT_VERSION = "1.0.0"


def create_app(settings: BackendSettings, *, faults: FaultPlan | None = None) -> FastAPI:
    """Makes the ASGI application. Its folder is opened when it starts (ASGI lifespan), not here.

    Args:
        settings: Folder, keys, limits and extensions.
        faults: Switches fault injection on, and with it the route that controls it.

    Raises:
        RuntimeError: At the start: another process uses the folder, or a newer version wrote it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_backend(settings) as backend:
            app.state.backend = backend
            yield

    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=CONTRACT_VERSION,
        openapi_tags=[tag for tag in TAGS if faults is not None or tag["name"] != "faults"],
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        # Spans would carry addresses, which hold driver ids and download tokens; older versions don't know the word.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    install_problem_handlers(app)
    for part in (health, trips, scenarios, models, profiles, fleet, vehicles, rollouts):
        app.include_router(part.router)
    has = settings.extensions
    optional = (
        (has.resumable_uploads, resumable.router),
        (has.trips_batch, trips.batches),
        (has.vehicle_report, vehicles.reports),
        (has.direct_uploads, direct.router),
        (has.scenario_catalogue, scenarios.catalogue),
        (has.profile_deletion, profiles.deletion),
        (has.model_deltas, models.deltas),
    )
    for is_offered, routes in optional:
        if is_offered:
            app.include_router(routes)
    app.add_middleware(Admission, most=settings.limits.requests)
    bodies = (Trip, TripBatch, ScenarioRegistration, Profile, VehicleReport, RolloutPlan, direct.CompletedUpload)
    if faults is None:
        install_documentation(app, bodies)
    else:
        app.include_router(faults_router(faults))
        app.add_middleware(FaultInjector, plan=faults)
        install_documentation(app, (*bodies, FaultList))
    return app
