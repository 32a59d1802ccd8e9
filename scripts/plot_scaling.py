#!/usr/bin/env python3
"""Draws workers against the blocks that are left, as `make e2e` recorded them.

    scripts/plot_scaling.py SERIES.json docs/scaling-workers.svg

The series is {"most": 6, "samples": [{"seconds", "step", "blocks", "workers"}, ...]}.
"""

import json
import sys
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 760, 320, 56, 40, 640, 220
INK, BLOCKS, WORKERS = "#333333", "#8a8a8a", "#1f6fb2"


def draw(series: dict[str, Any]) -> str:
    """Return the SVG of a recorded series."""
    samples = series["samples"]
    end = max(one["seconds"] for one in samples) or 1.0
    most_blocks = max(one["blocks"] for one in samples) or 1

    def x(one: dict[str, Any]) -> float:
        return float(LEFT + PLOT_W * one["seconds"] / end)

    def path(key: str, most: float) -> str:
        steps = []
        for number, one in enumerate(samples):
            y = TOP + PLOT_H * (1 - one[key] / most)
            steps.append(f"M{x(one):.1f},{y:.1f}" if number == 0 else f"H{x(one):.1f}V{y:.1f}")
        return "".join(steps)

    def text(at_x: float, at_y: float, words: str, more: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" {more}>{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT},{TOP}v{PLOT_H}h{PLOT_W}v-{PLOT_H}" fill="none" stroke="{INK}"/>',
        f'<path d="{path("blocks", most_blocks)}" fill="none" stroke="{BLOCKS}" stroke-width="2"/>',
        f'<path d="{path("workers", series["most"])}" fill="none" stroke="{WORKERS}" '
        'stroke-width="2"/>',
        text(
            LEFT, 20, f"blocks of the step that are left (0 to {most_blocks})", f'fill="{BLOCKS}"'
        ),
        text(
            LEFT + PLOT_W,
            20,
            f"workers that run (0 to {series['most']}, the study's most)",
            f'fill="{WORKERS}" text-anchor="end"',
        ),
        text(LEFT - 6, TOP + 4, str(most_blocks), f'fill="{BLOCKS}" text-anchor="end"'),
        text(LEFT - 6, TOP + PLOT_H + 4, "0", f'fill="{BLOCKS}" text-anchor="end"'),
        text(LEFT + PLOT_W + 6, TOP + 4, str(series["most"]), f'fill="{WORKERS}"'),
        text(LEFT + PLOT_W + 6, TOP + PLOT_H + 4, "0", f'fill="{WORKERS}"'),
        text(LEFT, TOP + PLOT_H + 40, "seconds since the run was asked for"),
    ]
    for second in range(0, int(end) + 1, 30):
        at = LEFT + PLOT_W * second / end
        parts.append(f'<path d="M{at:.1f},{TOP + PLOT_H}v5" stroke="{INK}"/>')
        parts.append(text(at, TOP + PLOT_H + 18, str(second), 'text-anchor="middle"'))
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: list[str]) -> int:
    """Draw a series into a file; returns the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: plot_scaling.py SERIES.json PLOT.svg\n")
        return 2
    Path(arguments[1]).write_text(draw(json.loads(Path(arguments[0]).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
