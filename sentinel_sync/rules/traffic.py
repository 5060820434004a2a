"""Which kinds of traffic there are, most important first."""

from enum import StrEnum


class Traffic(StrEnum):
    """What something is sent or fetched for."""

    TRIPS = "trips"
    PROFILES = "profiles"
    FLEET = "fleet"
    SCENARIOS = "scenarios"
    MODELS = "models"
