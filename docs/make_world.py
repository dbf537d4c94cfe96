# ruff: noqa: INP001, T201
"""Makes app/browser/world.json, the outline of the world behind the place of a picture.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python docs/make_world.py package/countries-50m.json

The outline is that of Natural Earth 4.1 at 1:50,000,000, which is in the public domain (naturalearthdata.com); the npm
package world-atlas carries it as TopoJSON under the ISC licence. Here it is simplified to a tenth of a degree and
written as two SVG paths on a plane of 20 units a degree, longitude to the right and latitude up.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parent.parent / "app" / "browser" / "world.json"
UNITS = 20
TOLERANCE_DEGREES = 0.06
SMALLEST_SQUARE_DEGREES = 0.02

Line = list[tuple[float, float]]


def simplified(line: Line) -> Line:
    """Without the points that hardly matter: Douglas and Peucker, 1973."""
    if len(line) < 3:
        return line
    (x1, y1), (x2, y2) = line[0], line[-1]
    length = math.hypot(x2 - x1, y2 - y1)
    farthest, split = 0.0, 0
    for at, (x, y) in enumerate(line[1:-1], 1):
        away = (
            abs((x2 - x1) * (y1 - y) - (x1 - x) * (y2 - y1)) / length
            if length
            else math.hypot(x - x1, y - y1)
        )
        if away > farthest:
            farthest, split = away, at
    if farthest <= TOLERANCE_DEGREES:
        return [line[0], line[-1]]
    return simplified(line[: split + 1])[:-1] + simplified(line[split:])


def decoded(topology: dict[str, Any]) -> list[Line]:
    """The arcs of a TopoJSON file in degrees."""
    (scale_x, scale_y), (start_x, start_y) = (
        topology["transform"]["scale"],
        topology["transform"]["translate"],
    )
    arcs = []
    for steps in topology["arcs"]:
        x = y = 0
        line = []
        for step_x, step_y in steps:
            x, y = x + step_x, y + step_y
            line.append((x * scale_x + start_x, y * scale_y + start_y))
        arcs.append(simplified(line))
    return arcs


def rings(geometry: dict[str, Any]) -> Iterator[list[int]]:
    """The closed lines of a geometry, as numbers of arcs."""
    for part in geometry.get("geometries", []):
        yield from rings(part)
    if geometry["type"] == "Polygon":
        yield from geometry["arcs"]
    elif geometry["type"] == "MultiPolygon":
        for polygon in geometry["arcs"]:
            yield from polygon


def joined(ring: list[int], arcs: list[Line]) -> Line:
    """A ring as one line that goes on beyond 180 degrees rather than jump to -180."""
    points: Line = []
    for number in ring:
        arc = arcs[number] if number >= 0 else arcs[~number][::-1]
        points += arc if not points else arc[1:]
    line = [points[0]]
    for x, y in points[1:]:
        turns = round((x - line[-1][0]) / 360)
        line.append((x - 360 * turns, y))
    if abs(line[-1][0] - line[0][0]) > 180:  # around a pole: closed along the edge of the plane
        pole = math.copysign(90, line[0][1])
        line += [(line[-1][0], pole), (line[0][0], pole)]
    return line


def copies(line: Line) -> Iterator[Line]:
    """The line, and where it leaves the plane, once more on the other side."""
    low, high = min(x for x, _ in line), max(x for x, _ in line)
    for turn in (-360, 0, 360):
        if low + turn < 180 and high + turn > -180:
            yield [(x + turn, y) for x, y in line]


def path_of(line: Line, *, is_closed: bool) -> str:
    """SVG path data with relative steps; '' for what is too small to be seen."""
    points = list(dict.fromkeys((round((x + 180) * UNITS), round((90 - y) * UNITS)) for x, y in line))
    if len(points) < (3 if is_closed else 2):
        return ""
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(points)]
    numbers = " ".join(f"{x} {y}" for x, y in steps).replace(" -", "-")
    return f"M{points[0][0]} {points[0][1]}l{numbers}{'z' if is_closed else ''}"


def area(line: Line) -> float:
    """Square degrees within a ring."""
    pairs = zip(line, line[1:] + line[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def main() -> None:
    """Read the TopoJSON file that is named, write the outline."""
    topology = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arcs = decoded(topology)
    coasts = [joined(ring, arcs) for ring in rings(topology["objects"]["land"])]
    land = "".join(
        path_of(copy, is_closed=True)
        for line in coasts
        if area(line) > SMALLEST_SQUARE_DEGREES
        for copy in copies(line)
    )
    countries = topology["objects"]["countries"]["geometries"]
    used = Counter(
        max(number, ~number) for country in countries for ring in rings(country) for number in ring
    )
    borders = "".join(path_of(arcs[number], is_closed=False) for number, times in used.items() if times > 1)
    about = "Natural Earth 4.1, 1:50m, public domain; by way of the npm package world-atlas 2.0.2"
    TARGET.write_text(
        json.dumps({"source": about, "units": UNITS, "land": land, "borders": borders}) + "\n",
        encoding="utf-8",
    )
    print(TARGET, TARGET.stat().st_size)


if __name__ == "__main__":
    main()
