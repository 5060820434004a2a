"""Findings for people (a table, and what showed each miss), for programs (JSON), and for CI (JUnit)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree as ET

from sentinel_sync.conformance.run import Finding, Level, Verdict

_SIGNS = {Verdict.MET: "ok  ", Verdict.MISSED: "MISS", Verdict.ABSENT: "-   "}


def line(finding: Finding) -> str:
    """One finding in one line."""
    why = f": {finding.why}" if finding.why else ""
    return f"{_SIGNS[finding.verdict]}  {finding.level:<9}  {finding.name}{why}"


def evidence(finding: Finding) -> str:
    """What showed a miss: the contract's row, then each request and its answer."""
    shown = [f"{finding.name}: {finding.why}", f"  the contract: {finding.row}"]
    for exchange in finding.exchanges:
        shown += [_indented(exchange.request, "  > "), _indented(exchange.answer, "  < ")]
    return "\n".join(shown)


def summary(findings: Sequence[Finding]) -> str:
    """How it came out, in one line."""
    missed = [finding for finding in findings if finding.verdict is Verdict.MISSED]
    required = sum(finding.fails for finding in missed)
    met = sum(finding.verdict is Verdict.MET for finding in findings)
    absent = sum(finding.verdict is Verdict.ABSENT for finding in findings)
    verdict = "it does not conform" if required else "it conforms"
    optional = len(missed) - required
    return f"{verdict}: {met} met, {required} missed, {optional} optional ones missed, {absent} with nothing to judge"


def hint(findings: Sequence[Finding], *, has_own_ids: bool) -> str | None:
    """What to try where it is the key that was refused, which says nothing about the backend; None elsewhere."""
    answers = [finding.exchanges[-1].answer for finding in findings if finding.fails and finding.exchanges]
    statuses = {answer.partition(" ")[0] for answer in answers}
    if "401" in statuses:
        return "the key is not accepted (401): is it one that a vehicle may use, and whole?"
    if "403" not in statuses:
        return None
    if has_own_ids:
        return "the key is refused (403): is it a vehicle's, and good for this --fleet-id and --vehicle-id?"
    return (
        "the key is refused (403) for the fleet and vehicle that the kit makes up: where it is good for one fleet or "
        "vehicle alone, name them with --fleet-id and --vehicle-id (a test bench's)"
    )


def as_json(url: str, findings: Sequence[Finding], hint: str | None = None) -> dict[str, Any]:
    """All of it."""
    return {
        "url": url,
        "conforms": not any(finding.fails for finding in findings),
        "hint": hint,
        "checks": [asdict(it) for it in findings],
    }


def as_junit(findings: Sequence[Finding]) -> bytes:
    """JUnit's XML, as CI servers read it; an optional miss is a skip with its reason."""
    suite = ET.Element(
        "testsuite",
        name="sentinel_sync conformance",
        tests=str(len(findings)),
        failures=str(sum(finding.fails for finding in findings)),
        skipped=str(sum(_is_skipped(finding) for finding in findings)),
        time=f"{sum(finding.seconds for finding in findings):.3f}",
    )
    for finding in findings:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"conformance.{finding.level}",
            name=finding.name,
            time=f"{finding.seconds:.3f}",
        )
        if finding.fails:
            failure = ET.SubElement(case, "failure", message=_plain(finding.why))
            failure.text = _plain(evidence(finding))
        elif _is_skipped(finding):
            ET.SubElement(case, "skipped", message=_plain(finding.why))
    written: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return written


def _is_skipped(finding: Finding) -> bool:
    return finding.verdict is Verdict.ABSENT or (finding.verdict is Verdict.MISSED and finding.level is Level.OPTIONAL)


def _plain(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "·" for letter in text)


def _indented(text: str, with_: str) -> str:
    return "\n".join(with_ + one for one in text.splitlines())
