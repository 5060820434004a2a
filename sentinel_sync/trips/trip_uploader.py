"""`TripUploader`: records the trip under way and uploads closed trips, each exactly once by its id."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPMethod
from random import Random
from typing import TypedDict

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock, moment
from sentinel_sync.base.errors import CloudError, StoreFullError, TripStateError
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.privacy import Place, place_or_none, pseudonym
from sentinel_sync.base.tasks import PeriodicTask, Supervisor
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation, Lifecycle
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import NewItem, OutboxItem
from sentinel_sync.store.sender import OutboxSender
from sentinel_sync.store.store import Store
from sentinel_sync.trips.batch import TripBatches
from sentinel_sync.trips.rules.trip import OpenTrip, new_trip_id

logger: logging.Logger = logging.getLogger(__name__)

#: Where the checkpoint lies.
OPEN_TRIP = ("open_trip", "")
_SHAPE = TypeAdapter(OpenTrip)
KIND = "trip"
#: Without a trip there is nothing to checkpoint; starting one wakes the duty (seconds).
_NOTHING_TO_CHECKPOINT = 3600.0
#: An item that is due now but was not sent waits at least so long, seconds: a claim that finds nothing must not spin.
MIN_WAIT = 0.05


async def open_trip(documents: Documents) -> OpenTrip | None:
    """The trip under way as of its last checkpoint, for a look from outside; None where there is none."""
    return await documents.load(*OPEN_TRIP, _SHAPE)


class TripLog:
    """The trips of one vehicle, as a power cut leaves them.

    What is asked for takes effect in the order in which it was asked for, also where the caller is cancelled.

    Args:
        store: The open store.
        kind: Of closed trips in the outbox.
        recoverable: False where no checkpoint is to be written, and none that lies there touched.
    """

    def __init__(self, store: Store, kind: str, *, recoverable: bool) -> None:
        self._store = store
        self._kind = kind
        self._recoverable = recoverable

    async def checkpoint(self, trip: OpenTrip) -> None:
        """Write the trip under way."""
        if self._recoverable:
            await self._store.documents.save(*OPEN_TRIP, trip, _SHAPE)

    async def forget(self) -> None:
        """Delete the checkpoint of a trip that has not begun."""
        if self._recoverable:
            await self._store.documents.delete(*OPEN_TRIP)

    async def close(self, trip: OpenTrip, summary: TripSummary) -> None:
        """Queue a closed trip and delete its checkpoint, in one transaction.

        Raises:
            StoreFullError: The disk is full; the checkpoint stays.
        """
        await self._put(trip, summary, from_headroom=False)

    async def recover(self) -> None:
        """Close the trip that was open when the power went: it is what its last checkpoint says."""
        if not self._recoverable:
            return
        trip = await self._store.documents.load(*OPEN_TRIP, _SHAPE)
        if trip is None:
            return
        try:
            summary = trip.summary(interrupted=True)
        except (ValueError, OverflowError) as error:
            logger.error("trip.unreadable: the checkpoint of %s is no trip (%s)", trip.trip_id, type(error).__name__)
            await self._store.documents.set_aside(*OPEN_TRIP)
            return
        # A full disk must not keep the agent from starting, and the next trip would overwrite the checkpoint.
        await self._put(trip, summary, from_headroom=True)
        logger.warning(
            "trip.interrupted: %s closed as of its last checkpoint, after %.0f s", trip.trip_id, summary.duration
        )

    async def _put(self, trip: OpenTrip, summary: TripSummary, *, from_headroom: bool) -> None:
        body = summary.model_dump_json().encode()
        item = NewItem(self._kind, trip.trip_id, body, stamp=trip.closing_stamp())
        instead_of = OPEN_TRIP if self._recoverable else None
        await self._store.outbox.put(item, instead_of=instead_of, from_headroom=from_headroom)


class TripStatistics(TypedDict):
    """What `get_statistics` answers."""

    trip_id: str | None
    queued: int
    uploaded: int
    set_aside: int
    dropped: int
    ignored_updates: int


class TripUploader:
    """Trips, from the first reading to the backend's acknowledgement.

    Args:
        api_client: The backend.
        store: Where trips lie until they are acknowledged; by default a `Store` on the client's `state_dir`, shared by
            all components of that client and closed with it.
        foundation: What the agent's features share; by default what the client's components share.
        recoverable: False for trips that could be recorded again (a replayed drive): no checkpoint is written, and none
            that lies there is touched, so that it gets along with an agent that has a trip under way.
        ask_time: Awaited before the first trip of a boot is sent, so that the timekeeper sees the backend's time first;
            by default one health request.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        store: Store | None = None,
        *,
        foundation: Foundation | None = None,
        recoverable: bool = True,
        ask_time: Callable[[], Awaitable[object]] | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = api_client.settings
        foundation = foundation or Foundation.of(api_client, store, clock=clock, rng=rng)
        self._clock = foundation.clock
        self._store = foundation.store
        self._timekeeper = foundation.timekeeper
        self._policy = foundation.policy
        self._policy.follow_trips(lambda: self._trip is not None)
        self._sender = OutboxSender(
            api_client,
            self._store.outbox,
            KIND,
            self._send,
            clock=self._clock,
            rng=foundation.rng,
            blocked_reason=self._blocked_reason,
            batches=TripBatches(api_client, self._put_right),
        )
        self._supervised = foundation.supervised
        self._log = TripLog(self._store, KIND, recoverable=recoverable)
        self._ask_time = ask_time or self._probe
        self._asked_boot_id: str | None = None
        self._recording = Supervisor(self._clock, foundation.rng)
        self._trip: OpenTrip | None = None
        self._turning = asyncio.Lock()
        self._ignored_updates = 0
        self._pseudonym_key: bytes | None = None
        self.upload: PeriodicTask = PeriodicTask("trips.upload", self.step)
        self.checkpoint: PeriodicTask = PeriodicTask("trips.checkpoint", self.checkpoint_step)
        self._life = Lifecycle(foundation, [self.upload], opening=self._open, closing=self._suspend)
        self._policy.subscribe(self._on_network)

    @property
    def trip_id(self) -> str | None:
        """Id of the trip under way, or None."""
        return None if self._trip is None else self._trip.trip_id

    async def prepare(self) -> None:
        """Open what is needed and close the trip that a crash or power cut left open; done by itself at first use.

        Raises:
            ConfigurationError: The pseudonym key cannot be read.
            StoreError: The state folder cannot be used.
        """
        await self._life.prepare()

    def pseudonym_of(self, driver_id: str | None) -> str | None:
        """What stands for a driver in a trip, or None where there is no driver or no pseudonym key."""
        return pseudonym(driver_id, self._pseudonym_key)

    async def start_trip(self, driver_id: str | None = None, location: object = None) -> str:
        """Begin a trip; returns its id once its beginning is on disk.

        Args:
            driver_id: The vehicle's own id of the driver; only its pseudonym is kept.
            location: `{"lat": degrees, "lon": degrees}` (or a pair, or "lat,lon"); kept to two decimals. Null in
                it is a receiver without a fix: no place.

        Raises:
            TripStateError: A trip is under way.
            ValueError: The location is not a place on Earth.
            StoreError: It cannot be written.
        """
        place = place_or_none(location)
        await self.prepare()
        pseudonymous = self.pseudonym_of(driver_id)
        async with self._turning:
            if self._trip is not None:
                raise TripStateError(f"a trip is under way ({self._trip.trip_id}): end_trip() comes first")
            stamp, started = self._timekeeper.stamp(), self._clock.monotonic()
            self._trip = trip = OpenTrip(
                trip_id=new_trip_id(self._clock.now(), secrets.token_bytes(10)),
                driver=pseudonymous,
                stamp=stamp,
                started=started,
                reached=started,
                reached_offset=stamp.offset,
                start_location=place,
            )
            try:
                await self._log.checkpoint(trip)
            except BaseException as error:
                # Not on disk, so not begun: the caller may try again.
                self._trip = None
                if isinstance(error, asyncio.CancelledError):
                    await asyncio.shield(self._log.forget())
                raise
            if not self._supervised:
                self._recording.start([self.checkpoint])
        self.checkpoint.wake.set()
        self._policy.duty.wake.set()
        logger.info("trip.started: %s", trip.trip_id)
        return trip.trip_id

    def update_trip(
        self,
        distance_delta: float = 0.0,
        speed: float = 0.0,
        risk_score: float = 0.0,
        alert_urgency: str | None = None,
        location: object = None,
        *,
        ignore_bad_location: bool = False,
    ) -> None:
        """Add one reading to the trip under way; a plain call, made at sensor rate. Between trips it does nothing.

        Args:
            distance_delta: Metres since the reading before.
            speed: m/s.
            risk_score: 0 … 1.
            alert_urgency: "info", "warning", "critical", or None where there was no alert.
            location: Where the vehicle is, as in `start_trip`; the last one becomes the trip's end.
            ignore_bad_location: Count the rest of the reading also where the location is no place on Earth.

        Raises:
            ValueError: A value is NaN, infinite, negative, out of range or unknown; the trip is as it was.
        """
        trip = self._trip
        if trip is None:
            self._ignored_updates += 1
            return
        try:
            place = place_or_none(location)
        except ValueError:
            if not ignore_bad_location:
                raise
            place = None
        try:
            # float(): a sensor's numpy.float32 would be summed in single precision, and could not be written.
            trip.update(float(distance_delta), float(speed), float(risk_score), alert_urgency)
        except (TypeError, OverflowError):
            raise ValueError("distance_delta, speed and risk_score must be numbers") from None
        if place is not None:
            trip.end_location = place

    async def end_trip(self, location: object = None) -> TripSummary | None:
        """Close the trip under way; returns its summary once it is on disk, not once it is sent.

        Args:
            location: Where it ended, as in `start_trip`; by default the last place an update gave.

        Returns:
            The summary, or None where no trip is under way.

        Raises:
            ValueError: The location is not a place on Earth; the trip goes on.
            StoreError: It cannot be written (a full disk); the trip goes on, call again.
        """
        place = place_or_none(location)
        # Shielded: a caller who is cancelled leaves a trip that has ended durably or goes on, never something between.
        return await asyncio.shield(asyncio.ensure_future(self._end(place)))

    async def sync_now(self) -> int:
        """Send what is due now; returns how many trips the backend took."""
        await self.prepare()
        if not self._settings.upload_trips:
            return 0
        if await self._sender.is_blocked():
            self._sender.ask_again()  # a yes holds for a drain, a no for this look only
            return 0
        await self._learn_time()
        return await self._sender.drain()

    #: The name that deployed vehicles register with their OfflineManager.
    _process_upload_queue = sync_now

    async def get_statistics(self) -> TripStatistics:
        """Count trips: under way, queued, uploaded, set aside, dropped by a bound."""
        await self.prepare()
        counts = await self._store.outbox.counts(KIND)
        return TripStatistics(
            trip_id=self.trip_id,
            queued=counts.unsent,
            uploaded=counts.acknowledged,
            set_aside=counts.set_aside,
            dropped=sum(counts.dropped.values()),
            ignored_updates=self._ignored_updates,
        )

    def start_background_upload(self) -> "asyncio.Future[None]":
        """Upload every `sync_interval` seconds and after each trip, in the running loop; may be awaited.

        Under an agent there is nothing to be done: it uploads already.
        """
        return self._life.start()

    async def stop_background_upload(self) -> None:
        """End what `start_background_upload` began; what is queued stays queued."""
        await self._life.stop()

    async def step(self) -> float:
        """Upload what is due; returns the seconds until the next upload."""
        await self.sync_now()
        if not self._settings.upload_trips:
            return self._settings.sync_interval
        passage = self._client.gate.passage(self._clock.monotonic())
        if not passage.open:
            return self._settings.sync_interval if passage.wait is None else passage.wait
        wait = self._policy.wait_of(TrafficClass.TRIPS)
        if wait is not None:
            # Until the budget's day turns; where something else ends it, the policy wakes us.
            return min(self._settings.sync_interval, wait)
        due = await self._store.outbox.next_due(KIND)
        return self._settings.sync_interval if due is None else min(self._settings.sync_interval, max(due, MIN_WAIT))

    async def checkpoint_step(self) -> float:
        """Write the trip under way to disk; returns the seconds until the next time."""
        trip = self._trip
        if trip is None:
            return _NOTHING_TO_CHECKPOINT
        if not self._turning.locked():  # else it is being begun or ended: after its end it must not be written again
            self._reach(trip)
            try:
                await self._log.checkpoint(trip)
            except StoreFullError as error:
                # Tried again at the same pace: as soon as there is space, a power cut costs no more than was promised.
                logger.error("trip.checkpoint: %s", error)
        return self._settings.checkpoint_interval

    async def _end(self, place: Place | None) -> TripSummary | None:
        async with self._turning:
            trip = self._trip
            if trip is None:
                return None
            if place is not None:
                trip.end_location = place
            self._reach(trip)
            summary, updates = trip.summary(interrupted=False), trip.updates
            # Where this fails (a full disk) the trip goes on, with the updates that came meanwhile.
            await self._log.close(trip, summary)
            self._trip = None
            self._ignored_updates += trip.updates - updates
            await self._recording.stop(grace=1.0)
        self.upload.wake.set()
        self._policy.duty.wake.set()
        logger.info("trip.ended: %s, %.0f m in %.0f s", trip.trip_id, summary.distance, summary.duration)
        return summary

    async def _learn_time(self) -> None:
        """See the backend's time before the first trip of a boot is sent: what was sent cannot be put right."""
        boot_id = self._clock.boot_id()
        if self._timekeeper.has_observation or self._asked_boot_id == boot_id:
            return
        if not self._client.gate.passage(self._clock.monotonic()).open:
            return
        if await self._store.outbox.next_due(KIND) is None:
            return
        await self._ask_time()
        # Once is enough where it does not say; where it did not answer, the gate is closed and trips wait.
        if self._client.gate.passage(self._clock.monotonic()).open:
            self._asked_boot_id = boot_id

    async def _probe(self) -> None:
        try:
            probe = await self._client.probe()
        except CloudError as error:
            logger.info("trips.time: the backend's time is not known: %s", error)
            return
        await self._timekeeper.observe(probe)

    async def _blocked_reason(self) -> str | None:
        return await self._policy.blocked_reason(TrafficClass.TRIPS)

    def _on_network(self) -> None:
        self._sender.ask_again()
        self.upload.wake.set()

    def _reach(self, trip: OpenTrip) -> None:
        trip.reach(self._clock.monotonic(), self._timekeeper.stamp().offset)

    async def _send(self, item: OutboxItem) -> None:
        body = self._put_right(item)
        names = {"trip_id": item.key}
        await self._client.request(HTTPMethod.POST, "/trips", content=body, idempotency_key=item.key, names=names)

    def _put_right(self, item: OutboxItem) -> bytes:
        """The trip's body, its times corrected where the clock that gave them was wrong."""
        shift = 0.0 if item.stamp is None else self._timekeeper.correction(item.stamp)
        if shift == 0.0:
            return item.body
        summary = TripSummary.model_validate_json(item.body)
        logger.info("trip.time_corrected: %s by %+.0f s", item.key, shift)
        times = {
            "start_time": moment(summary.start_time.timestamp() + shift),
            "end_time": moment(summary.end_time.timestamp() + shift),
        }
        return summary.model_copy(update=times).model_dump_json().encode()

    async def _open(self) -> None:
        self._pseudonym_key = await self._settings.read_pseudonym_key()
        if self._pseudonym_key is None:
            logger.info("trips.no_pseudonym_key: trips carry no driver: set cloud.pseudonym_key to tell drivers apart")
        await self._timekeeper.load()
        if self._trip is None:  # else the checkpoint that lies there is of a trip that goes on
            await self._log.recover()

    async def _suspend(self) -> None:
        """A trip under way ends here as a power cut would end it, but for the seconds since its last checkpoint."""
        await self._recording.stop(grace=1.0)
        await self.checkpoint_step()
