"""Dangerous changes, each by what it means: does the simulation alone notice? `python -m tests.simulation.mutants`.

A mutant is a text in a file and what stands there instead; where the text is not there any more the list is out of
date, and says so.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sentinel_sync

PACKAGE = Path(sentinel_sync.__file__).parent
_ROOT = Path(__file__).parents[2]
#: Of all, the simulation alone has to notice so many; the others are for the tests of what they are in.
_ENOUGH = 0.6


@dataclass(frozen=True, slots=True)
class Mutant:
    """One dangerous change.

    Attributes:
        intent: What the changed program does wrong.
        file: Below the package.
        before: What stands there, once.
        after: What stands there instead.
    """

    intent: str
    file: str
    before: str
    after: str


MUTANTS = (
    Mutant(
        "a login page acknowledges",
        "cloud/rules/answers.py",
        'return status in {201, 204} and not start.startswith(_HTML) and b"<html" not in start',
        "return True",
    ),
    Mutant(
        "a trip is forgotten although the backend said not now",
        "store/sender.py",
        "            await self._outbox.settle(item, self._retry.decision(item.key, error, item.attempts))",
        "            return True",
    ),
    Mutant(
        "a trip that the answer to its batch does not name counts as taken",
        "trips/batch.py",
        "                outcome.failed.append((item, unknown))",
        "                outcome.taken.append(item)",
    ),
    Mutant(
        "whatever a batch comes to, its trips count as taken",
        "trips/batch.py",
        "            outcome.failed.extend((item, error) for item in items)",
        "            outcome.taken.extend(items)",
    ),
    Mutant(
        "a part of a direct upload that never arrived counts as there",
        "cloud/direct.py",
        "        if reply.status in _STALE:\n            raise _StaleError",
        "        if reply.status in _STALE:\n            return reply",
    ),
    Mutant(
        "a trip under way is not written down at its start",
        "trips/trip_uploader.py",
        "        if self._recoverable:\n            await self._store.documents.save(*OPEN_TRIP, trip, _SHAPE)",
        "        pass",
    ),
    Mutant(
        "what was open when the power went is not closed",
        "trips/trip_uploader.py",
        "        if trip is None:\n            return\n        try:",
        "        if True:\n            return\n        try:",
    ),
    Mutant(
        "what a killed agent was sending waits for ever",
        "store/outbox.py",
        "\"UPDATE item SET state = 'waiting', due_at = min(created_at, ?) WHERE state = 'sending'\"",
        "\"UPDATE item SET state = 'waiting', due_at = min(created_at, ?) WHERE state = 'never'\"",
    ),
    Mutant(
        "the driver's own id goes along",
        "base/privacy.py",
        '    return "d_" + hmac.new(key, driver_id.encode(), hashlib.sha256).hexdigest()[:32]',
        "    return driver_id",
    ),
    Mutant(
        "probes come as fast as they can while out of reach",
        "base/backoff.py",
        "    return rng.uniform(0.0, ceiling)",
        "    return rng.uniform(0.0, 0.001)",
    ),
    Mutant(
        "acknowledged trips stay in the outbox",
        "store/outbox.py",
        '"DELETE FROM item WHERE seq IN (SELECT value FROM json_each(?))"',
        '"DELETE FROM item WHERE seq = -1 AND seq IN (SELECT value FROM json_each(?))"',
    ),
    Mutant(
        "a trip that ended is marked as interrupted",
        "trips/trip_uploader.py",
        "trip.summary(interrupted=False)",
        "trip.summary(interrupted=True)",
    ),
    Mutant(
        "what another vehicle drove counts as driven here",
        "profiles/rules/history.py",
        "bases=remembered(bases, seen), pending=None, written=seen)",
        "bases=bases, pending=None, written=seen)",
    ),
    Mutant(
        "a retry of a trip goes under another key",
        "trips/trip_uploader.py",
        "idempotency_key=item.key",
        "idempotency_key=item.key + str(item.attempts)",
    ),
    Mutant(
        "a distance is counted twice",
        "trips/rules/trip.py",
        "distance, risk_sum = self.distance + distance_delta",
        "distance, risk_sum = self.distance + 2.0 * distance_delta",
    ),
    Mutant(
        "nothing is sent again after an outage",
        "store/outbox.py",
        "due_at = self._clock.now() + min(seconds, CAP)",
        "due_at = self._clock.now() + 1e9",
    ),
    Mutant(
        "anybody may sign a release",
        "models/rules/releases.py",
        "    if trust is not None:\n        verify(release, trust, allow_unsigned=allow_unsigned)",
        "    if trust is None:\n        verify(release, trust, allow_unsigned=allow_unsigned)",
    ),
    Mutant(
        "the registry is not told of a switch",
        "models/installed.py",
        "        await self._write_registry(intent.switched(previous))\n",
        "",
    ),
    Mutant(
        "a switch that a crash cut off is not finished",
        "models/installed.py",
        "await self.change(name, lambda record: record.switched(previous))",
        "await self.change(name, lambda record: record)",
    ),
    Mutant(
        "a download goes on at the wrong place",
        "cloud/download.py",
        "await run_to_end(self._staging.begin, offset, etag)",
        "await run_to_end(self._staging.begin, max(0, offset - 1), etag)",
    ),
    Mutant(
        "a withdrawn consent counts as one",
        "scenarios/rules/plan.py",
        "    if not consent.granted:\n        return",
        "    if False:\n        return",
    ),
    Mutant(
        "no consent counts as one",
        "scenarios/scenario_uploader.py",
        "        if self._vouched and not withdrawn and missing_consent",
        "        if missing_consent",
    ),
    Mutant(
        "what was recorded while a consent stood withdrawn is queued by the next",
        "scenarios/scan.py",
        "            if storable(name) in excluded:",
        "            if False:",
    ),
    Mutant(
        "a withdrawal does not stop what is under way",
        "scenarios/scenario_uploader.py",
        "        self._cut_for_withdrawal()\n        async with self._sending,",
        "        return\n        async with self._sending,",
    ),
    Mutant(
        "a withdrawal leaves the queue",
        "scenarios/scenario_uploader.py",
        "        dropped = await self._records.drop_all(WITHDRAWN)",
        "        dropped = 0",
    ),
    Mutant(
        "nobody asks for the consent before a part",
        "scenarios/upload.py",
        "        if consent is None or forbidden is not None:",
        "        if consent is None:",
    ),
    Mutant(
        "recordings go over a metered link",
        "network/rules/traffic.py",
        "    if network.metered:\n",
        "    if False:\n",
    ),
    Mutant(
        "a copied video keeps what its container told",
        "scenarios/rules/compression.py",
        '        *("-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1", "-c:v", "copy"),',
        '        *("-sn", "-dn", "-c:v", "copy"),',
    ),
    Mutant(
        "a compressed video keeps what its container told",
        "scenarios/rules/compression.py",
        '            "-map_metadata",\n            "-1",\n',
        '            "-map_metadata",\n            "0",\n',
    ),
    Mutant(
        "metadata goes as the recorder wrote it",
        "scenarios/rules/metadata.py",
        '    kept = outgoing({key: value for key, value in metadata.items() if key != "files"}, Context())',
        '    kept = {key: value for key, value in metadata.items() if key != "files"}',
    ),
    Mutant(
        "texts are not looked into",
        "scenarios/rules/private_data.py",
        "def _outgoing_text(text: str, context: Context) -> JsonValue:\n",
        "def _outgoing_text(text: str, context: Context) -> JsonValue:\n    return text\n",
    ),
    Mutant(
        "numbers are not looked at",
        "scenarios/rules/private_data.py",
        "def _outgoing_number(value: float, context: Context) -> JsonValue:\n",
        "def _outgoing_number(value: float, context: Context) -> JsonValue:\n    return value\n",
    ),
    Mutant(
        "a scenario is done after its first part",
        "scenarios/upload.py",
        "        while (part := self._plan.next_part()) is not None:",
        "        if (part := self._plan.next_part()) is not None:",
    ),
    Mutant(
        "a part counts as arrived before it is sent",
        "scenarios/upload.py",
        "            await self._uploads.send(upload)",
        "            await self._client.probe()",
    ),
    Mutant(
        "what has arrived of a scenario is forgotten",
        "scenarios/upload.py",
        "        await self._save(plan)\n        logger.info(",
        "        self._plan = plan\n        logger.info(",
    ),
    Mutant(
        "a cut scenario waits for ever",
        "scenarios/upload.py",
        "        return Defer(attempts.wait(now), str(error), connectivity=won)",
        "        return Defer(1e9, str(error), connectivity=False)",
    ),
    Mutant(
        "a scenario whose connection broke is set aside",
        "scenarios/upload.py",
        "            decision = self._retry.decision(item.key, error, 1 if further else item.attempts)",
        "            decision = SetAside(str(error))",
    ),
    Mutant(
        "an upload goes on at the wrong offset",
        "cloud/rules/tus.py",
        "        return SendFrom(self._offset)",
        "        return SendFrom(max(0, self._offset - 1))",
    ),
    Mutant(
        "an upload that is half there counts as whole",
        "cloud/rules/tus.py",
        "        if self._offset == self._length:\n            return Arrived()",
        "        if self._offset >= self._length // 2:\n            return Arrived()",
    ),
    Mutant(
        "a piece that was cut off counts as arrived",
        "cloud/tus.py",
        "            if await self._has_arrived(state, offset, upload):\n                return\n",
        "            state._stands_at(upload.source.size_bytes)\n            return\n",
    ),
    Mutant(
        "places are kept as they are measured",
        "base/privacy.py",
        "    return round(value, COORDINATE_DECIMALS) + 0.0",
        "    return value",
    ),
    Mutant(
        "a trip under way is never written again",
        "trips/trip_uploader.py",
        "            self._reach(trip)\n            try:\n                await self._log.checkpoint(trip)",
        "            self._reach(trip)\n            try:\n                pass",
    ),
    Mutant(
        "the end of a trip is told before it is on disk",
        "trips/trip_uploader.py",
        "            await self._log.close(trip, summary)\n",
        "            pass\n",
    ),
    Mutant(
        "what was open when the power went stays open",
        "trips/trip_uploader.py",
        "        await self._put(trip, summary, from_headroom=True)\n",
        "        return\n",
    ),
    Mutant(
        "a trip's checkpoint outlives it",
        "trips/trip_uploader.py",
        "        instead_of = OPEN_TRIP if self._recoverable else None",
        "        instead_of = None",
    ),
    Mutant(
        "a trip names its driver",
        "trips/trip_uploader.py",
        "                driver=pseudonymous,",
        "                driver=driver_id,",
    ),
    Mutant(
        "an acknowledgement takes with it what waits",
        "store/outbox.py",
        '"DELETE FROM item WHERE seq IN (SELECT value FROM json_each(?))"',
        '"DELETE FROM item WHERE seq <= (SELECT max(value) FROM json_each(?))"',
    ),
    Mutant(
        "what was to be tried again is set aside",
        "store/outbox.py",
        "                await self.defer(item.seq, seconds, reason, connectivity=connectivity)",
        "                await self.set_aside(item.seq, reason)",
    ),
    Mutant(
        "what was given back untried is lost",
        "store/outbox.py",
        "\"UPDATE item SET state = 'waiting', attempts = max(attempts - 1, 0)\"",
        "\"UPDATE item SET state = 'sending'\"",
    ),
    Mutant(
        "one item that cannot be sent keeps those behind it",
        "store/sender.py",
        '            await self._outbox.settle(item, SetAside(f"cannot be sent as it is stored: {error}"))',
        "            raise",
    ),
    Mutant(
        "an answer that means not now means never",
        "cloud/rules/answers.py",
        "            return Meaning.NOT_NOW\n        case _ if",
        "            return Meaning.REJECTED\n        case _ if",
    ),
    Mutant(
        "a backend's wish to wait is ignored",
        "cloud/rules/answers.py",
        "        if retry_after is not None:\n            self._asked_until",
        "        if False:\n            self._asked_until",
    ),
    Mutant(
        "a refused key is never tried again",
        "cloud/rules/answers.py",
        "        self._refused_until = now + self._credential_retry_interval",
        "        self._refused_until = now + 1e9",
    ),
    Mutant(
        "a pause has no end",
        "cloud/rules/answers.py",
        "            self._paused_until = now + full_jitter(self._failures, self._rng, cap=MAX_PAUSE)",
        "            self._paused_until = now + 1e9",
    ),
    Mutant(
        "bytes that are not those that were signed are kept",
        "cloud/download.py",
        "            if self._staging.checksum() != self._target.checksum:\n                raise VerificationError",
        "            if False:\n                raise VerificationError",
    ),
    Mutant(
        "a file that is here already is taken without a look",
        "models/installer.py",
        "                    if not await run_to_end(files.holds, kept, release.size, release.checksum):",
        "                    if not kept.exists():",
    ),
    Mutant(
        "what is staged is switched to without a look",
        "models/installer.py",
        "            if not hashed and not await self._installed.is_kept(name, staged.kept):",
        "            if False:",
    ),
    Mutant(
        "a switch ends where a crash cut it off",
        "models/installed.py",
        "            await self.repair()\n            await self._write_registry()",
        "            await self._write_registry()",
    ),
    Mutant(
        "the runtime's file is not replaced",
        "models/installed.py",
        "        await run_to_end(self.files.switch, kept, self.files.live(target.live_name))\n",
        "",
    ),
    Mutant(
        "what is staged is never switched to",
        "models/installer.py",
        "                await self._installed.install(name, staged.kept, self._new_probation())\n",
        "                return None\n",
    ),
    Mutant(
        "only the vehicle that drove last counts",
        "profiles/rules/merge.py",
        "    return sum(parts) if all(isinstance(part, int) for part in parts) else fsum(parts)",
        "    return parts[-1]",
    ),
    Mutant(
        "the vehicle that drove most counts",
        "profiles/rules/merge.py",
        "    return sum(parts) if all(isinstance(part, int) for part in parts) else fsum(parts)",
        "    return max(parts)",
    ),
    Mutant(
        "what the backend holds is not taken in",
        "profiles/rules/history.py",
        "    state, name = join(known.state, cloud), name_of(known, told.vehicle)\n",
        "    state, name = known.state, name_of(known, told.vehicle)\n",
    ),
    Mutant(
        "a merge forgets what this vehicle had brought in",
        "profiles/rules/history.py",
        "replace(known, state=join(state, fresh), bases=",
        "replace(known, state=fresh, bases=",
    ),
    Mutant(
        "an older part of a vehicle wins over its newer",
        "profiles/rules/merge.py",
        "    newer = max(one, other, key=_contribution_order)\n",
        "    newer = min(one, other, key=_contribution_order)\n",
    ),
    Mutant(
        "what this vehicle drove counts again after each exchange",
        "profiles/rules/history.py",
        "    return replace(known, state=state, pending=pending)\n",
        "    return replace(known, state=state, pending=None, bases=known.bases[:1])\n",
    ),
    Mutant(
        "nobody else's faster write of a profile is noticed",
        "profiles/backend_copy.py",
        '    return {"If-Match": former.etag}',
        "    return {}",
    ),
    Mutant(
        "profiles go unsealed",
        "profiles/keys.py",
        '        return self.fernet.encrypt(content).decode("ascii")',
        '        return content.decode("utf-8")',
    ),
    Mutant(
        "a profile is sent before this vehicle knows that it was",
        "profiles/exchange.py",
        "if merged_result is not None and merged_result.body is not None and merged_result.record != sync.record:",
        "if False and merged_result is not None:",
    ),
)


def is_noticed(mutant: Mutant | None, seeds: int, days: float) -> bool:
    """Whether any seed finds something, or cannot be played to its end; None is the program as it is."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "sentinel_sync"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(_ROOT / "tests", Path(name) / "tests", ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
        if mutant is not None:
            path = copy / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.before) != 1:
                raise SystemExit(f"{mutant.intent}: {mutant.file} has changed, and so must this mutant")
            path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--days", str(days), "--stop"]
        environment = os.environ | {"PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=name, env=environment, capture_output=True, check=False).returncode != 0


def main() -> int:
    """Try each, and say which of them live."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="seeds that each has to survive (6)")
    parser.add_argument("--days", type=float, default=0.3, help="days of each (0.3)")
    parser.add_argument("--only", default="", help="those whose intent has these words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many at once (one a core)")
    arguments = parser.parse_args()
    if is_noticed(None, arguments.seeds, arguments.days):
        raise SystemExit("the program as it is does not pass: no mutant would show anything")

    def tried(mutant: Mutant) -> bool:
        began = time.monotonic()
        is_killed = is_noticed(mutant, arguments.seeds, arguments.days)
        print(f"{'killed' if is_killed else 'LIVES '} {time.monotonic() - began:5.0f} s  {mutant.intent}", flush=True)
        return is_killed

    with ThreadPoolExecutor(arguments.jobs) as threads:
        mutants = [mutant for mutant in MUTANTS if arguments.only in mutant.intent]
        killed = sum(threads.map(tried, mutants))
    print(f"{killed} of {len(mutants)} killed")
    return 0 if killed >= _ENOUGH * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
