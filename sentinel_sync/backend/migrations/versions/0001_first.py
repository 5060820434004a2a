"""The first tables: as SQLite's, with trips in a partition for each month."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids are compared by their bytes, as SQLite does, whatever the server's language is.
_ID = 'TEXT COLLATE "C" NOT NULL'
_TABLES = f"""
CREATE TABLE trip_ids (
    fleet_id {_ID}, trip_id {_ID}, vehicle_id {_ID}, repeats BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (fleet_id, trip_id)
);
CREATE TABLE trips (
    fleet_id {_ID}, vehicle_id {_ID}, trip_id {_ID},
    received_at DOUBLE PRECISION NOT NULL, day {_ID}, end_time {_ID},
    duration DOUBLE PRECISION NOT NULL, distance DOUBLE PRECISION NOT NULL,
    critical_alerts BIGINT NOT NULL, warning_alerts BIGINT NOT NULL, info_alerts BIGINT NOT NULL,
    average_risk DOUBLE PRECISION NOT NULL, max_risk DOUBLE PRECISION NOT NULL, safety_score DOUBLE PRECISION NOT NULL,
    driver_id TEXT COLLATE "C", body TEXT NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id, trip_id, day)
) PARTITION BY RANGE (day);
CREATE TABLE trips_default PARTITION OF trips DEFAULT;
CREATE INDEX trips_by_id ON trips (trip_id);
CREATE INDEX trips_with_alerts ON trips (fleet_id, end_time, trip_id)
    WHERE critical_alerts + warning_alerts + info_alerts > 0;
CREATE TABLE totals (
    fleet_id {_ID}, kind {_ID}, name {_ID}, shard BIGINT NOT NULL,
    trips BIGINT NOT NULL, duration DOUBLE PRECISION NOT NULL, distance DOUBLE PRECISION NOT NULL,
    critical_alerts BIGINT NOT NULL, warning_alerts BIGINT NOT NULL, info_alerts BIGINT NOT NULL,
    weight DOUBLE PRECISION NOT NULL, weighted_score DOUBLE PRECISION NOT NULL,
    weighted_risk DOUBLE PRECISION NOT NULL, last_ended {_ID},
    PRIMARY KEY (fleet_id, kind, name, shard)
) WITH (fillfactor = 70);
CREATE TABLE vehicles (
    fleet_id {_ID}, vehicle_id {_ID}, last_seen DOUBLE PRECISION NOT NULL, user_agent TEXT NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id)
) WITH (fillfactor = 70);
CREATE TABLE reports (
    fleet_id {_ID}, vehicle_id {_ID}, received_at DOUBLE PRECISION NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id)
);
CREATE INDEX reports_by_time ON reports (received_at);
CREATE TABLE scenarios (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fleet_id {_ID}, vehicle_id {_ID}, scenario_id {_ID},
    received_at DOUBLE PRECISION NOT NULL, priority TEXT NOT NULL, metadata TEXT NOT NULL, consent TEXT NOT NULL,
    UNIQUE (fleet_id, vehicle_id, scenario_id)
);
CREATE TABLE parts (
    scenario BIGINT NOT NULL REFERENCES scenarios (id), name {_ID}, kind TEXT NOT NULL,
    file TEXT NOT NULL UNIQUE, size BIGINT NOT NULL, sha256 TEXT NOT NULL,
    received_size BIGINT NOT NULL, received_sha256 TEXT NOT NULL, received_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (scenario, name)
);
CREATE TABLE wanted (
    scenario BIGINT PRIMARY KEY REFERENCES scenarios (id), files TEXT NOT NULL, asked_at DOUBLE PRECISION NOT NULL
);
CREATE TABLE idempotency_keys (
    fleet_id {_ID}, vehicle_id {_ID}, idempotency_key {_ID}, work TEXT NOT NULL, used_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id, idempotency_key)
);
CREATE TABLE uploads (
    upload_id TEXT PRIMARY KEY,
    scenario BIGINT NOT NULL REFERENCES scenarios (id), kind TEXT NOT NULL, name TEXT NOT NULL,
    length BIGINT NOT NULL, sha256 TEXT NOT NULL, compressed BIGINT NOT NULL,
    idempotency_key TEXT NOT NULL, expires_at DOUBLE PRECISION NOT NULL, completed BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE models (
    name {_ID}, version {_ID}, filename TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    size BIGINT NOT NULL, checksum TEXT NOT NULL, signatures TEXT NOT NULL,
    rollout DOUBLE PRECISION NOT NULL, released_at TEXT NOT NULL, published_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE rollouts (
    name {_ID}, version {_ID}, plan TEXT NOT NULL, state TEXT NOT NULL, step BIGINT NOT NULL,
    step_began_at DOUBLE PRECISION NOT NULL, why TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE outcomes (
    name {_ID}, version {_ID}, fleet_id {_ID}, vehicle_id {_ID}, state TEXT NOT NULL,
    PRIMARY KEY (name, version, fleet_id, vehicle_id)
);
CREATE TABLE profiles (
    fleet_id {_ID}, driver_id {_ID},
    encrypted_data TEXT NOT NULL, updated_at DOUBLE PRECISION NOT NULL, revision TEXT NOT NULL,
    PRIMARY KEY (fleet_id, driver_id)
);
CREATE TABLE forgotten_drivers (
    fleet_id {_ID}, driver_digest BYTEA NOT NULL, forgotten_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (fleet_id, driver_digest)
);
CREATE TABLE api_keys (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, fleet_id TEXT, vehicle_id TEXT,
    created_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION
);
CREATE TABLE events (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fleet_id {_ID}, vehicle_id {_ID}, kind TEXT NOT NULL,
    body TEXT NOT NULL, recorded_at DOUBLE PRECISION NOT NULL
);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, ends_at DOUBLE PRECISION NOT NULL);
"""


def upgrade() -> None:
    """Makes the tables."""
    for statement in filter(str.strip, _TABLES.split(";")):
        op.execute(statement)
