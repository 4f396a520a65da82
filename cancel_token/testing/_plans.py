"""Where to cancel: a plan, its name for a replay, and which plans are worth an attempt."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal, Self, TypeVar, get_args

import attrs

from cancel_token.testing._points import Kind, Point

T = TypeVar("T")

Backend = Literal["sync", "line", "trio", "asyncio"]
Select = Literal["auto", "all", "per-site"]

# Chosen by what was measured on 23 faults: 15 points chosen so found 21 of them, 64 random ones a median of 18.
FIRST_OF_SITE, LAST_OF_SITE = 3, 2
AUTO_LIMIT = 400  # chosen by hand: so many attempts take a fraction of a second
SAMPLE = 64  # chosen by hand: of those that are left over

_ID = re.compile(r"ct1:(?P<backend>[a-z]+):(?P<points>[^~]*)~(?P<fingerprint>[0-9a-f]{4})")
_POINT = re.compile(r"(?P<lane>\d+(\.\d+)*)\.(?P<ordinal>\d+)(?P<kind>[a-z]+)")


@attrs.frozen
class Plan:
    """Where to cancel: at one point, or at a second one while the first stop is cleaned up.

    Args:
        backend: Where it runs; see `explore()`.
        points: In this order; empty for the undisturbed run.
        fingerprint: Sixteen bits of the way to the last point, once it has been gone.
    """

    backend: Backend
    points: tuple[Point, ...] = ()
    fingerprint: int | None = attrs.field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        """Its name for `replay()`, such as `ct1:sync:0.24check~9f2c`: version, backend, points, way."""
        points = "+".join(map(str, self.points))
        return f"ct1:{self.backend}:{points}~{self.fingerprint or 0:04x}"

    @property
    def site(self) -> str:
        """Where in the source the last point is."""
        return self.points[-1].site if self.points else "undisturbed"

    @classmethod
    def parse(cls, id: str) -> Self:  # noqa: A002  # it is what everybody calls it
        """Read a replay id.

        Raises:
            ValueError: It is none.
        """
        found = _ID.fullmatch(id)
        points: list[Point] = []
        for text in found["points"].split("+") if found and found["points"] else ():
            point = _POINT.fullmatch(text)
            if point is not None and point["kind"] in get_args(Kind):
                # a checked word is one of the Literal's
                points.append(Point(point["lane"], int(point["ordinal"]), point["kind"]))  # type: ignore[arg-type]
            else:
                found = None
                break
        if found is None or found["backend"] not in get_args(Backend):
            raise ValueError(f"{id!r} is no replay id such as 'ct1:sync:0.24check~9f2c'")
        return cls(found["backend"], tuple(points), fingerprint=int(found["fingerprint"], 16))  # type: ignore[arg-type]


def select(items: Sequence[tuple[Hashable, T]], how: Select, limit: int | None = None) -> list[T]:
    """Choose what to try of (site, item) pairs, in their order.

    Args:
        items: With the site of each.
        how: `"all"`; `"per-site"`: the first three and the last two of each site, and a sample of the others, the
            same every time; `"auto"`: all up to 400, else per site.
        limit: So many at most: the first of each site come first. None for no limit.
    """
    if limit is not None and len(items) > limit:
        return _limited(items, limit)
    if how == "all" or (how == "auto" and len(items) <= AUTO_LIMIT):
        return [item for _, item in items]
    places: dict[Hashable, list[int]] = {}
    for place, (site, _) in enumerate(items):
        places.setdefault(site, []).append(place)
    chosen: set[int] = set()
    for each in places.values():
        chosen.update(each[:FIRST_OF_SITE], each[-LAST_OF_SITE:])
    others = [place for place in range(len(items)) if place not in chosen]
    chosen.update(random.Random(0).sample(others, min(SAMPLE, len(others))))
    return [items[place][1] for place in sorted(chosen)]


def _limited(items: Sequence[tuple[Hashable, T]], limit: int) -> list[T]:
    """The first of each site, then the second of each, and so on, until there are enough."""
    met: Counter[Hashable] = Counter()
    ranks: list[tuple[int, int]] = []
    for place, (site, _) in enumerate(items):
        ranks.append((met[site], place))
        met[site] += 1
    return [items[place][1] for place in sorted(place for _, place in sorted(ranks)[:limit])]
