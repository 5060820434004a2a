"""`doctor`: a line per thing, with what to do; 0 where nothing fails."""

import asyncio
import ssl
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from sentinel_sync.cli.findings import Level
from sentinel_sync.cli.machine_checks import check_clock
from sentinel_sync.cli.ui.status_text import DROP_REASONS
from sentinel_sync.cli.ui.text import moment
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import DATABASE_NAME, StateLock, Store
from tests.cli.backend import KEY, Backend, running_backend
from tests.cli.vehicle import PSEUDONYM_KEY, Said, Vehicle


def _check(said: Said, name: str) -> dict[str, str]:
    found: dict[str, dict[str, str]] = {check["check"]: check for check in said.json["checks"]}
    return found[name]


def test_all_well_is_0_and_a_line_each(vehicle: Vehicle) -> None:
    vehicle.queue_trips(1)
    said = vehicle.run("doctor")
    assert said.code == 0
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[-1] == "0 failures, 0 warnings"
    names = {line[6:24].strip() for line in lines[:-2]}
    assert names >= {
        "settings", "secrets", "pseudonym key", "state folder", "disk", "outbox", "agent", "ffmpeg", "name",
        "connection", "TLS", "health", "captive portal", "clock skew", "credential",
    }  # fmt: skip
    assert all(line.startswith("ok ") for line in lines[:-2])


def test_a_wrong_key_fails_with_what_to_do(vehicle: Vehicle, backend: Backend) -> None:
    backend.key = "another"
    said = vehicle.run("doctor", "--json")
    assert said.code == 1
    assert said.json["ok"] is False
    found = _check(said, "credential")
    assert found["level"] == "fail"
    assert "401 (this key is not accepted)" in found["message"]
    assert "api_key_file" in found["advice"]


def test_a_captive_portal_is_recognised(vehicle: Vehicle, backend: Backend) -> None:
    backend.portal = True
    said = vehicle.run("doctor", "--json")
    assert said.code == 1
    found = _check(said, "captive portal")
    assert (found["level"], found["advice"].split(" or ")[0]) == ("fail", "sign in to this network")
    assert not any(check["check"] == "credential" for check in said.json["checks"])


def test_a_backend_that_is_down_fails_at_the_connection(vehicle: Vehicle) -> None:
    vehicle.configure(api_url="http://127.0.0.1:1")
    said = vehicle.run("doctor", "--json")
    assert said.code == 1
    assert _check(said, "connection")["message"] == "127.0.0.1, port 1: Connection refused"
    assert said.json["checks"][-1]["check"] == "connection"


def test_an_address_with_a_wrong_path_is_no_backend_in_trouble(vehicle: Vehicle, backend: Backend) -> None:
    vehicle.configure(api_url=f"{backend.url}/nope")
    found = _check(vehicle.run("doctor", "--json"), "health")
    assert (found["level"], "check cloud.api_url" in found["advice"]) == ("fail", True), found


def test_a_skewed_clock_is_a_warning_with_its_direction(vehicle: Vehicle, backend: Backend) -> None:
    backend.ahead = timedelta(hours=1)
    said = vehicle.run("doctor", "--json")
    assert said.code == 0
    found = _check(said, "clock skew")
    assert (found["level"], found["message"]) == ("warn", "this clock is 1 h behind the backend's")


def test_an_unknown_key_in_the_settings_fails_with_the_nearest(vehicle: Vehicle) -> None:
    vehicle.configure(sync_intervall=300)
    said = vehicle.run("doctor")
    assert said.code == 1
    assert "the nearest known one is `sync_interval`" in said.out


def test_while_switched_off_nothing_is_sent_and_the_placeholder_key_is_told(vehicle: Vehicle, backend: Backend) -> None:
    backend.portal = True
    vehicle.configure(enabled=False, api_key="your_api_key")
    said = vehicle.run("doctor", "--json")
    assert said.code == 0
    assert _check(said, "switch")["level"] == "warn"
    assert _check(said, "api key")["message"] == "cloud.api_key is still the example's"
    assert "nothing is sent, not even by the doctor" in _check(said, "network")["message"]


def test_settings_that_lack_a_key_are_told_before_they_are_switched_on(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False, api_key="")
    found = _check(vehicle.run("doctor", "--json"), "api key")
    assert found["level"] == "warn"
    assert "without a credential" in found["message"]


def test_a_key_file_that_is_missing_fails(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False, api_key_file=str(vehicle.folder / "missing"))
    said = vehicle.run("doctor", "--json")
    assert (said.code, _check(said, "api key")["level"]) == (1, "fail")


def test_without_a_pseudonym_key_it_warns_and_an_unreadable_one_fails(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False, pseudonym_key=None)
    assert _check(vehicle.run("doctor", "--json"), "pseudonym key")["level"] == "warn"
    vehicle.configure(pseudonym_key_file=str(vehicle.folder / "missing"))
    assert _check(vehicle.run("doctor", "--json"), "pseudonym key")["level"] == "fail"


def test_a_settings_file_with_keys_that_others_can_read_is_a_warning(vehicle: Vehicle) -> None:
    vehicle.config.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IROTH)
    found = _check(vehicle.run("doctor", "--json"), "secrets")
    assert (found["level"], found["advice"]) == ("warn", "chmod 600 each of them")


def test_a_state_folder_that_is_a_file_fails(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False)
    vehicle.state.write_text("")
    said = vehicle.run("doctor", "--json")
    assert said.code == 1
    assert _check(said, "state folder")["level"] == "fail"


def test_a_bound_above_the_free_space_is_a_warning(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False, outbox_max_bytes=1 << 60)
    assert _check(vehicle.run("doctor", "--json"), "disk")["level"] == "warn"


def test_damage_and_what_was_set_aside_are_found(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False)
    (key,) = vehicle.queue_trips(1)
    vehicle.set_aside(key, "no")
    (vehicle.state / f"{DATABASE_NAME}.damaged-20261123T080000Z").write_bytes(b"")
    said = vehicle.run("doctor", "--json")
    assert _check(said, "set aside")["message"].startswith("1 item ")
    assert "outbox.db.damaged-20261123T080000Z" in _check(said, "damage")["message"]
    (vehicle.state / DATABASE_NAME).write_bytes(b"no database" * 1000)
    said = vehicle.run("doctor", "--json")
    assert (said.code, _check(said, "outbox")["level"]) == (1, "fail")


def test_what_somebody_gave_up_is_told_with_the_reason(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False)
    (key,) = vehicle.queue_trips(1)
    vehicle.run("queue", "drop", key, "--yes")
    found = _check(vehicle.run("doctor", "--json"), "dropped")
    assert (found["level"], found["message"]) == ("ok", "1 item given up so far: 1 trip by an operator")


def test_a_clock_that_was_never_set_is_a_warning() -> None:
    finding = check_clock(86_400.0)
    assert (finding.level, finding.message) == (Level.WARN, f"it is {moment(86_400.0)} here: the clock was never set")
    assert check_clock(1_795_000_000.0).level is Level.OK


@pytest.mark.parametrize(
    ("keys", "level", "message"),
    [
        ({"upload_scenarios": False}, "ok", "not needed: upload_scenarios is false"),
        ({"upload_scenarios": True}, "warn", "not found: recordings wait, because nothing goes"),
    ],
)
def test_ffmpeg_is_missed_only_where_recordings_go(
    vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch, keys: dict[str, bool], level: str, message: str
) -> None:
    monkeypatch.setenv("PATH", str(vehicle.folder))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # the extra that brings one along is not installed
    vehicle.configure(enabled=False, **keys)
    found = _check(vehicle.run("doctor", "--json"), "ffmpeg")
    assert (found["level"], found["message"].startswith(message)) == (level, True), found


@pytest.mark.parametrize(
    ("status", "check", "advice"),
    [(503, "health", "the agent tries again by itself"), (401, "credential", "cloud.api_key_file")],
)
def test_a_backend_that_refuses_the_health_check_is_told_apart_from_none(
    vehicle: Vehicle, backend: Backend, status: int, check: str, advice: str
) -> None:
    backend.health = (status, b'{"title": "as told"}')
    found = _check(vehicle.run("doctor", "--json"), check)
    assert (found["level"], advice in found["advice"]) == ("fail", True), found


def test_a_backend_that_tells_no_time_leaves_the_skew_to_its_date(vehicle: Vehicle, backend: Backend) -> None:
    backend.health = (200, b'{"status": "ok"}')
    found = _check(vehicle.run("doctor", "--json"), "clock skew")
    assert (found["level"], found["message"].endswith("the backend's clock")) == ("ok", True), found


def test_an_agent_that_runs_is_told(vehicle: Vehicle) -> None:
    vehicle.configure(enabled=False)
    vehicle.queue_trips(0)
    lock = StateLock(vehicle.state)
    asyncio.run(asyncio.to_thread(lock.acquire))
    try:
        assert _check(vehicle.run("doctor", "--json"), "agent")["message"].startswith("running")
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("kind", "reason", "remedy"),
    [
        ("scenario", "consent", ""),
        ("trip", "erased", ""),
        ("trip", "operator", ""),
        ("trip", "size", "raise cloud.outbox_max_bytes"),
        ("trip", "age", "raise cloud.outbox_max_age"),
        ("scenario", "retention", "raise cloud.keep_unsent_days"),
        ("scenario", "disk_reserve", "free some space, or set cloud.disk_reserve_unsent to false"),
    ],
)
def test_the_remedy_for_what_was_dropped_fits_the_reason(vehicle: Vehicle, kind: str, reason: str, remedy: str) -> None:
    async def drop() -> None:
        async with Store(vehicle.state, exclusive=False) as store:
            await store.outbox.put_all([NewItem(kind, "dropped", b"{}"), NewItem("scenario", "anew", b"{}")])
            await store.outbox.drop(["dropped"], reason=reason)
            await store.outbox.drop(["anew"], reason="replaced")

    asyncio.run(drop())
    found = _check(vehicle.run("doctor", "--json"), "dropped")
    assert found["message"] == f"1 item given up so far: 1 {kind} {DROP_REASONS[reason]}"
    assert found["advice"] == (f"if that was not meant: {remedy}" if remedy else "")
    assert found["level"] == ("warn" if remedy else "ok")


def test_keys_are_never_shown(vehicle: Vehicle, backend: Backend) -> None:
    backend.key = "another"
    for words in (("doctor",), ("doctor", "--json"), ("doctor", "--log-level", "debug")):
        said = vehicle.run(*words)
        assert KEY not in said.out + said.err
        assert PSEUDONYM_KEY not in said.out + said.err


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        with running_backend() as running:
            yield running

    def _serve(self, backend: Backend, certificate: trustme.LeafCert) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        backend.socket = context.wrap_socket(backend.socket, server_side=True)
        return backend.url.replace("http://127.0.0.1", "https://localhost")

    def test_a_private_authority_is_accepted_and_the_end_of_its_certificate_told(
        self, vehicle: Vehicle, backend: Backend, authority: trustme.CA, tmp_path: Path
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        url = self._serve(backend, authority.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=200)))
        vehicle.configure(api_url=url, ca_file=str(tmp_path / "ca.pem"))
        said = vehicle.run("doctor", "--json")
        assert said.code == 0
        assert _check(said, "TLS")["message"].startswith("TLSv1.3; the backend's certificate is valid until ")

    def test_a_certificate_that_ends_soon_is_a_warning(
        self, vehicle: Vehicle, backend: Backend, authority: trustme.CA, tmp_path: Path
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        url = self._serve(
            backend, authority.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=3, minutes=30))
        )
        vehicle.configure(api_url=url, ca_file=str(tmp_path / "ca.pem"))
        found = _check(vehicle.run("doctor", "--json"), "TLS")
        assert found["level"] == "warn"
        assert "expires in 3 d (" in found["message"]

    def test_an_unknown_authority_fails_with_what_to_do(
        self, vehicle: Vehicle, backend: Backend, authority: trustme.CA
    ) -> None:
        vehicle.configure(api_url=self._serve(backend, authority.issue_cert("localhost")))
        said = vehicle.run("doctor", "--json")
        assert said.code == 1
        found = _check(said, "TLS")
        assert found["level"] == "fail"
        assert "cloud.ca_file" in found["advice"]

    @pytest.mark.parametrize(
        ("name", "days", "advice"),
        [("localhost", -1, "set this machine's clock"), ("elsewhere.example", 200, "must name the host")],
    )
    def test_a_certificate_that_is_over_or_anothers_says_who_has_to_act(
        self,
        vehicle: Vehicle,
        backend: Backend,
        authority: trustme.CA,
        tmp_path: Path,
        name: str,
        days: int,
        advice: str,
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        ends = datetime.now(UTC) + timedelta(days=days)
        certificate = authority.issue_cert(name, not_before=ends - timedelta(days=300), not_after=ends)
        vehicle.configure(api_url=self._serve(backend, certificate), ca_file=str(tmp_path / "ca.pem"))
        found = _check(vehicle.run("doctor", "--json"), "TLS")
        assert (found["level"], advice in found["advice"]) == ("fail", True), found

    def test_a_port_that_speaks_no_tls_fails(self, vehicle: Vehicle, backend: Backend) -> None:
        vehicle.configure(api_url=backend.url.replace("http:", "https:"))
        said = vehicle.run("doctor", "--json")
        assert (said.code, _check(said, "TLS")["level"]) == (1, "fail")
