"""What the command line shows: tables, bars and sentences. Data to stdout, the rest to stderr."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from alpage.engine.report import Progress as RunProgress
    from alpage.engine.report import RunReport
    from alpage.remote import Line, Status

out = Console()
err = Console(stderr=True)
WHOLE = 10_000
"""Columns of what no terminal shows: tables for programs are not cut."""


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator["Callable[[RunProgress], None]"]:
    """Give a function that shows how far a run is, on a terminal that is not to be quiet."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f}/{task.total:.1f} km² × dates"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    )
    with bar:
        task = bar.add_task("planning", total=None)

        def show(progress: "RunProgress") -> None:
            bar.update(
                task,
                description=progress.step,
                completed=progress.done_km2_dates,
                total=progress.total_km2_dates,
            )

        yield show


def print_status(now: "Status", *, as_json: bool) -> None:
    """Show where a remote run stands."""
    if as_json:
        print_json(now.to_json())
        return
    for key in ("name", "id", "deployment", "state", "message", "progress"):
        if value := getattr(now, key):
            out.print(f"{key}: {plain(value)}", highlight=False, soft_wrap=True)


def print_line(console: Console, line: "Line") -> None:
    """Show one line of a remote run's log."""
    told = f"{line.at:%H:%M:%S} {logging.getLevelName(line.level).lower()} {plain(line.text)}"
    console.print(told, highlight=False, soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Show lines whole, however long: paths and commands in them are to be copied."""
    for line in lines:
        out.print(plain(line), highlight=False, soft_wrap=True)


def print_bill(bill: dict[str, Any]) -> None:
    """Show what a run would do and cost."""
    table = Table(title="what a run would do", show_header=False)
    cpu = bill["cpu_seconds"]
    for name, value in (
        ("scenes to read", f"{bill['scenes']}"),
        ("blocks to do, at most", f"{bill['blocks_to_do']}"),
        *((f"  {step}", f"{n}") for step, n in bill["blocks"].items()),
        ("blocks to skip", f"{bill['blocks_to_skip']}"),
        ("requests, at most", f"{bill['requests']}"),
        ("to read", f"{bill['read_bytes'] / 2**20:.1f} MiB"),
        ("read amplification", f"{bill['read_amplification']:.2f}"),
        ("memory of a worker", f"{bill['peak_memory_bytes'] / 2**30:.2f} GiB"),
        ("core time", "not known before a first run" if cpu is None else f"{cpu:.0f} s"),
        ("to write, uncompressed", f"{bill['write_bytes_uncompressed'] / 2**20:.1f} MiB"),
        ("cost", f"{bill['cost_eur']:.4f} EUR"),
    ):
        table.add_row(name, value)
    out.print(table)
    print_notes(bill["notes"])
    _print_quarantine(bill["quarantined"])


def print_notes(notes: Sequence[str]) -> None:
    """Show what is no error, and not what one would expect either."""
    for note in notes:
        err.print(f"note: {note}", highlight=False, soft_wrap=True)


def print_report(report: "RunReport") -> None:
    """Show what a run did."""
    whole = report.cube if report.part is None else f"part {report.part} of {report.cube}"
    if report.n_blocks == 0:
        out.print(f"nothing to do: {whole} is up to date", highlight=False, soft_wrap=True)
    else:
        done = ", ".join(f"{step} {n}" for step, n in report.blocks.items())
        out.print(
            f"{report.n_blocks} blocks in {report.seconds:.1f} s ({done}); "
            f"read {report.read_seconds:.1f} s, computed {report.compute_seconds:.1f} s, "
            f"wrote {report.write_seconds:.1f} s; {report.retries} retries",
            highlight=False,
        )
        told = (
            f"cube: {report.cube}, snapshot {report.snapshot}"
            if report.part is None
            else f"{whole} is done; when all are, a run without --part shows readers the cube"
        )
        out.print(told, highlight=False, soft_wrap=True)
    _print_quarantine(report.quarantined)


def _print_quarantine(quarantined: dict[str, str]) -> None:
    for scene, reason in quarantined.items():
        told = f"quarantined {plain(scene)}: {plain(reason)}"
        err.print(told, highlight=False, soft_wrap=True)


def print_rows(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """Show rows with the same keys as a table; nothing where there are none."""
    if not rows:
        return
    table = Table(title=title)
    for column in rows[0]:
        # Ids are to be copied: whole.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(plain(str(value)) for value in row.values()))
    (out if out.is_terminal else Console(width=WHOLE)).print(table)


def print_json(value: Any) -> None:
    """Write a value to stdout for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + os.linesep)


def plain(text: str) -> str:
    """Return text from outside, safe from being read as markup."""
    return text.replace("[", r"\[")
