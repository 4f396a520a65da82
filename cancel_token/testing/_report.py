"""What an exploration found: counted, grouped, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

import attrs

from cancel_token.testing._lines import Target
from cancel_token.testing._outcomes import After, Attempt, Raised, Verdict
from cancel_token.testing._points import Kind
from cancel_token.testing._sites import unreached

SHOWN_IDS = 5  # chosen by hand: the first is the one to replay


@attrs.frozen
class Failure:
    """All attempts that violated the same thing at the same place, and raised the same, smallest first.

    Args:
        name: What was violated.
        site: Where the last cancel came, or `"undisturbed"`.
        attempts: At least one.
        detail: What the first of them found.
        raised: What the work raised in the first of them; None if it returned, was stopped, or hung.
    """

    name: str
    site: str
    attempts: tuple[Attempt, ...]
    detail: str
    raised: Raised | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """Their names for `replay()`."""
        return tuple(attempt.plan.id for attempt in self.attempts)


@attrs.frozen(kw_only=True)
class Report:
    """What `explore()` found.

    Args:
        attempts: All that were run, in order, the undisturbed ones first.
        planned: How many attempts with a cancel were to be made.
        points: How many points of each kind the undisturbed runs passed, chosen or not.
        sources: What was explored: `run` and the subject's class, or the `targets`.
        reached: File and line of each point that was passed.
        unresolved: Why the exploration as a whole proves less than it seems to; empty if it does not.
        errors: What kept it from being made.
    """

    attempts: tuple[Attempt, ...] = ()
    planned: int = 0
    points: Mapping[Kind, int] = attrs.field(factory=dict)
    sources: tuple[Target, ...] = attrs.field(default=(), repr=False)
    reached: frozenset[tuple[str, int]] = attrs.field(default=frozenset(), repr=False)
    unresolved: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def run(self) -> int:
        """How many attempts with a cancel in their plan were run."""
        return sum(bool(attempt.plan.points) for attempt in self.attempts)

    @property
    def valid(self) -> int:
        """How many of these were cancelled where the plan said, having come there the same way, and were judged."""
        return sum(
            bool(attempt.plan.points) and attempt.verdict in ("PASS", "FAIL") for attempt in self.attempts
        )

    @property
    def verdict(self) -> Verdict:
        """FAIL if anything failed; else ERROR, UNRESOLVED, or PASS if every attempt passed."""
        verdicts = {attempt.verdict for attempt in self.attempts}
        if "FAIL" in verdicts:
            return "FAIL"
        if self.errors or "ERROR" in verdicts or not self.attempts:
            return "ERROR"
        if self.unresolved or "UNRESOLVED" in verdicts:
            return "UNRESOLVED"
        return "PASS"

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What was violated, by name, place, and what the work raised, in the order of discovery."""
        groups: dict[tuple[str, str, Raised | None], list[tuple[Attempt, str]]] = {}
        for attempt in self.attempts:
            for breach in attempt.breaches:
                key = breach.name, attempt.plan.site, attempt.raised
                groups.setdefault(key, []).append((attempt, breach.detail))
        return tuple(
            Failure(name, site, tuple(attempt for attempt, _ in found), found[0][1], raised)
            for (name, site, raised), found in groups.items()
        )

    @property
    def slowest(self) -> After:
        """The most points, lines and ticks that any attempt went on for after its cancel."""
        return After(
            points=max((attempt.after.points for attempt in self.attempts), default=0),
            lines=max((attempt.after.lines for attempt in self.attempts), default=0),
            ticks=max((attempt.after.ticks for attempt in self.attempts), default=0),
        )

    @property
    def unreached(self) -> tuple[str, ...]:
        """Where in the sources a token seems to be asked or a task to wait, and no attempt has passed a point.

        That is not explored. The sources are read when this is asked for.
        """
        return unreached(self.sources, self.reached)

    def assert_ok(self) -> None:
        """Fail a test, with the whole report, unless every attempt passed.

        Raises:
            AssertionError: The verdict is not PASS.
        """
        if self.verdict != "PASS":
            raise AssertionError(str(self))

    def to_json(self) -> str:
        """Write it down for programs."""
        return json.dumps(
            {
                "verdict": self.verdict,
                "planned": self.planned,
                "run": self.run,
                "valid": self.valid,
                "points": dict(self.points),
                "unreached": self.unreached,
                "slowest": attrs.asdict(self.slowest),
                "failures": [
                    {
                        "name": failure.name,
                        "site": failure.site,
                        "ids": failure.ids,
                        "detail": failure.detail,
                        "raised": None if failure.raised is None else attrs.asdict(failure.raised),
                    }
                    for failure in self.failures
                ],
                "unresolved": [*self.unresolved, *self._notes("UNRESOLVED")],
                "errors": [*self.errors, *self._notes("ERROR")],
            },
            indent=1,
        )

    def to_junit(self, name: str) -> str:
        """Write it down as JUnit's XML: a case for each attempt, named by its replay id.

        Args:
            name: Of the suite.
        """
        counts = Counter(attempt.verdict for attempt in self.attempts)
        suite = ElementTree.Element(
            "testsuite",
            name=name,
            tests=str(len(self.attempts)),
            failures=str(counts["FAIL"]),
            errors=str(counts["ERROR"] + counts["UNRESOLVED"]),
        )
        for attempt in self.attempts:
            case = ElementTree.SubElement(
                suite, "testcase", name=attempt.plan.id, classname=attempt.plan.site
            )
            for breach in attempt.breaches:
                failure = ElementTree.SubElement(case, "failure", message=breach.name)
                failure.text = _lines(breach.detail, attempt.raised)
            if attempt.verdict in ("ERROR", "UNRESOLVED"):
                ElementTree.SubElement(case, "error", type=attempt.verdict, message=attempt.note)
        for note in (*self.unresolved, *self.errors):
            case = ElementTree.SubElement(suite, "testcase", name="the exploration", classname=name)
            ElementTree.SubElement(case, "error", message=note)
        return ElementTree.tostring(suite, encoding="unicode")

    def _notes(self, verdict: Verdict) -> list[str]:
        return [
            f"{attempt.plan.id} {attempt.plan.site}: {attempt.note}"
            for attempt in self.attempts
            if attempt.verdict == verdict
        ]

    def __str__(self) -> str:
        points = ", ".join(f"{count} {kind}" for kind, count in self.points.items())
        slowest = ", ".join(f"{count} {unit}" for unit, count in attrs.asdict(self.slowest).items())
        lines = [
            f"{self.verdict}: {self.planned} attempts planned, {self.run} run, {self.valid} valid ({points})",
            f"went on after the cancel for at most {slowest}",
        ]
        if missed := self.unreached:
            lines.append(f"{len(missed)} places never reached: {'; '.join(missed[:SHOWN_IDS])}")
        for failure in self.failures:
            count = len(failure.attempts)
            lines.append(f"FAIL {failure.name}\n  at {failure.site}, {count} attempt{'s'[: count > 1]}:")
            lines += [f"    {each}" for each in failure.ids[:SHOWN_IDS]]
            lines += [f"  {line}" for line in _lines(failure.detail, failure.raised).splitlines()]
        for verdict, own in (("UNRESOLVED", self.unresolved), ("ERROR", self.errors)):
            notes = [*own, *self._notes(verdict)]  # type: ignore[arg-type]  # one of the Literal's words
            lines += [f"{verdict} {note}".replace("\n", "\n  ") for note in notes[:SHOWN_IDS]]
            if len(notes) > SHOWN_IDS:
                lines.append(f"{verdict} and {len(notes) - SHOWN_IDS} more")
        return "\n".join(lines)


def _lines(detail: str, raised: Raised | None) -> str:
    return "\n".join(str(part) for part in (detail, raised) if part)


def joined(reports: Iterable[Report]) -> Report:
    """Make one report of several."""
    reports = list(reports)
    points: Counter[Kind] = Counter()
    for report in reports:
        points.update(report.points)
    return Report(
        attempts=tuple(attempt for report in reports for attempt in report.attempts),
        planned=sum(report.planned for report in reports),
        points=dict(points),
        sources=tuple(source for report in reports for source in report.sources),
        reached=frozenset().union(*(report.reached for report in reports)),
        unresolved=tuple(note for report in reports for note in report.unresolved),
        errors=tuple(error for report in reports for error in report.errors),
    )
