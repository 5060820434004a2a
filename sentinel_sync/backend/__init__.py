"""The reference backend: the whole wire contract on FastAPI, SQLite and files under one folder.

It exists for three readers: the demo and the end-to-end tests, which talk to it over a real socket; a team
that writes its own backend and wants an example; and the release engineer who puts a model in front of a
bench vehicle. It stands on the wire contract alone and imports nothing from the rest of the package, so that
a mistake in the agent's own idea of the contract shows here instead of being shared.

Nothing heavy is imported until one of the names below is used.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "BackendSettings",
    "Extensions",
    "Fault",
    "FaultPlan",
    "Limits",
    "ModelRelease",
    "ModelSignature",
    "create_app",
    "publish_model",
    "running_server",
    "serve",
]

#: Public name → the module of this package that defines it; import from there where types matter.
_HOMES = {
    "BackendSettings": "settings",
    "Extensions": "settings",
    "Fault": "faults",
    "FaultPlan": "faults",
    "Limits": "settings",
    "ModelRelease": "publishing",
    "ModelSignature": "publishing",
    "create_app": "app",
    "publish_model": "publishing",
    "running_server": "server",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
