"""The command line: parse, call one function, print. Data to stdout, the rest to stderr.

Each command imports the verbs once its study is read: help and a mistake in a study do not wait
for the libraries of a run.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from alpage.errors import AlpageError, StudyError
from alpage.files import replacing
from alpage.study import Study, read_study
from alpage.terminal import (
    err,
    out,
    plain,
    print_bill,
    print_json,
    print_line,
    print_lines,
    print_notes,
    print_report,
    print_rows,
    print_status,
    progress_bar,
)

if TYPE_CHECKING:
    from alpage.remote import Line, Status

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Living datacubes of lakes, snow and vegetation from satellite imagery.",
    epilog="Begin with: alpage demo",
)

INTERRUPTED = 130

StudyFile = Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="STUDY")]
Run = Annotated[str, typer.Argument(help="A run's name or id on the Prefect server.")]
PartOf = Annotated[
    str | None,
    typer.Option(
        help="Only this share of the tiles, such as 2/4; several run side by side.", metavar="N/M"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def main() -> None:
    """Run the command line; failures are one sentence and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # What `typer.Exit` was raised with comes back as a value here, and 130 for an interrupt.
        sys.exit(app(standalone_mode=False))
    except AlpageError as error:
        err.print(f"[bold red]error[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "show") and hasattr(error, "exit_code")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@app.command(epilog="Example: alpage search study.yaml --json | jq .scenes")
def search(study: StudyFile, as_json: AsJson = False) -> None:
    """List the scenes of a study."""
    chosen = read_study(study)
    from alpage import verbs

    found = verbs.search(chosen)
    rows = [
        {
            "id": scene.id,
            "day": str(scene.solar_day),
            "platform": scene.platform,
            "tile": scene.tile,
            "baseline": scene.baseline,
        }
        for scene in found.scenes.scenes
    ]
    if as_json:
        print_json(
            {"scenes": rows, "rejected": dict(found.rejected), "duplicates": found.duplicates}
        )
        return
    print_rows(rows, title=f"{len(rows)} scenes")
    for name, reason in found.rejected:
        err.print(f"left out {plain(name)}: {plain(reason)}", highlight=False, soft_wrap=True)
    if found.duplicates:
        err.print(f"{len(found.duplicates)} older processings of the same acquisitions left out")


@app.command(epilog="Example: alpage plan study.yaml")
def plan(study: StudyFile, part: PartOf = None, as_json: AsJson = False) -> None:
    """Tell what a run would do and cost, before any pixel is read."""
    chosen = read_study(study)
    from alpage import verbs

    made = verbs.plan(chosen, part=part)
    bill = made.bill.to_json() | {"quarantined": made.left_out}
    if as_json:
        print_json(bill)
    else:
        print_bill(bill)
    made.bill.check(chosen.limits)


@app.command(epilog="Example: alpage run study.yaml; alpage run study.yaml --on prefect://build")
def run(
    study: StudyFile,
    on: Annotated[
        str | None,
        typer.Option(
            help="Run on this deployment of the Prefect server (PREFECT_API_URL), and follow.",
            metavar="prefect://DEPLOYMENT",
        ),
    ] = None,
    part: PartOf = None,
    as_json: AsJson = False,
) -> None:
    """Bring a study's cube up to date. Interrupted runs are resumed.

    Readers see what parts did when a run without --part has done the rest.
    """
    chosen = read_study(study)
    if on is not None:
        if not on.startswith("prefect://") or on == "prefect://":
            raise StudyError(f"--on: expected prefect:// and a deployment, got {on!r}")
        from alpage import remote

        submitted = remote.submit(chosen, on, part=part)
        err.print(f"submitted {submitted.name} to {submitted.deployment}", highlight=False)
        _follow(submitted.name, submitted.id, as_json=as_json)
        return
    from alpage import logs, verbs

    logs.configure()
    try:
        with progress_bar(quiet=as_json) as on_progress:
            report = verbs.run(
                chosen,
                part=part,
                on_progress=on_progress,
                on_plan=lambda made: print_notes(made.bill.notes),
            )
    except KeyboardInterrupt:
        err.print("stopped: what is finished is kept, run again to go on")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(report.to_json())
        return
    print_report(report)


@app.command(epilog="Example: alpage status study.yaml --json; alpage status brave-otter")
def status(
    study: Annotated[
        str,
        typer.Argument(
            help="A study, a YAML file; or a run's name or id on the Prefect server.",
            metavar="STUDY|RUN",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Tell what a study's cube holds and which runs are unfinished; or how a remote run stands."""
    path = Path(study)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        from alpage import remote

        print_status(remote.status(study), as_json=as_json)
        return
    chosen = read_study(path)
    from alpage import verbs

    answer = verbs.status(chosen)
    if as_json:
        print_json(answer)
        return
    steps = answer.pop("steps", {})
    answer.pop("last_run", None)
    print_lines(f"{key}: {value}" for key, value in answer.items())
    print_rows(
        [
            {"step": step, **{k: round(v, 1) for k, v in cost.items()}}
            for step, cost in steps.items()
        ]
    )


@app.command(epilog="Example: alpage logs brave-otter --follow")
def logs(
    run: Run,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run ends, and end as it does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the log of a run on the Prefect server."""
    from alpage import remote

    if follow:
        _follow(run, run, as_json=as_json, level=0)
        return
    lines = remote.logs(run)
    if as_json:
        print_json([line.to_json() for line in lines])
        return
    for line in lines:
        print_line(out, line)


@app.command(epilog="Example: alpage cancel brave-otter")
def cancel(run: Run, as_json: AsJson = False) -> None:
    """Cancel a run on the Prefect server. Readers keep the cube that they see."""
    from alpage import remote

    now = remote.cancel(run)
    if as_json:
        print_json(now.to_json())
        return
    told = (
        "had not begun, and will not"
        if now.is_final
        else "is ending, and all that it started; what is finished is kept, readers see no change"
    )
    out.print(f"{now.name} {told}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: alpage history cubes/flanders")
def history(cube: str, as_json: AsJson = False) -> None:
    """List the states of a cube that readers have seen, newest first."""
    from alpage import verbs

    rows = verbs.history(cube)
    if as_json:
        print_json(rows)
        return
    print_rows(rows)


@app.command(epilog="Example: alpage rollback cubes/flanders")
def rollback(
    cube: str,
    snapshot: Annotated[
        str | None, typer.Argument(help="From `alpage history`; by default the one before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show readers an earlier state of a cube."""
    from alpage import verbs

    shown = verbs.rollback(cube, snapshot)
    if as_json:
        print_json({"snapshot": shown})
        return
    print_lines([f"readers of {cube} see {shown}"])


@app.command(epilog="Example: alpage release study.yaml")
def release(study: StudyFile, as_json: AsJson = False) -> None:
    """Publish what readers of the cube see as an immutable release."""
    chosen = read_study(study)
    from alpage import verbs

    made = verbs.release(chosen)
    if as_json:
        print_json(vars(made))
        return
    told = "released" if made.written else "was released already:"
    out.print(f"{told} {made.id} at {made.url}", highlight=False, soft_wrap=True)
    out.print(f"catalogue: {made.collection}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: alpage series study.yaml --zone lake --out lake.csv")
def series(
    study: StudyFile,
    calendar: Annotated[str | None, typer.Option(help="day, dekad, ...")] = None,
    zone: Annotated[str | None, typer.Option(help="Only this zone.")] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="A .csv or .parquet file; by default stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print or save the series of the zones of a cube."""
    chosen = read_study(study)
    from alpage import verbs

    if target is not None and target.suffix not in {".csv", ".parquet"}:
        raise StudyError(f"--out: expected a name that ends in .csv or .parquet, got {target}")
    table = verbs.series(chosen, calendar=calendar, zone=zone)
    if target is not None:
        write = table.to_parquet if target.suffix == ".parquet" else table.to_csv
        try:
            with replacing(target) as scratch:
                write(scratch, index=False)
        except OSError as error:
            raise StudyError(f"--out: {target} cannot be written: {error}") from error
        err.print(f"{len(table)} rows in {target}")
    elif as_json:
        out.print_json(table.to_json(orient="records", date_format="iso"))
    else:
        table.to_csv(sys.stdout, index=False)


@app.command(epilog="Example: alpage serve cubes/flanders.release --port 8000")
def serve(
    place: Annotated[str, typer.Argument(help="Folder or s3:// URL of releases.")],
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve releases over HTTP, with byte ranges and CORS."""
    from alpage.serve.static import serve_releases
    from alpage.settings import settings

    serve_releases(
        place,
        host=host,
        port=port,
        metrics_port=settings().metrics_port,
        say=lambda text: err.print(text, highlight=False, soft_wrap=True),
    )


@app.command(epilog="Example: alpage demo --folder demo")
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put all of it.")] = Path("demo"),
    size_px: Annotated[int, typer.Option(min=128, max=4096)] = 256,
    as_json: AsJson = False,
) -> None:
    """Make a valley with known truth, compute lakes, snow and vegetation, and compare."""
    from alpage.demo.main import run_demo

    answer = run_demo(folder, size_px=size_px, say=lambda text: err.print(text, highlight=False))
    if as_json:
        print_json(answer)
        return
    print_rows(answer["comparison"], title="error against the truth")
    print_lines(answer["next"])


@app.command(epilog="Example: alpage schema > study.schema.json")
def schema() -> None:
    """Print the JSON Schema of a study."""
    print_json(Study.model_json_schema())


def _follow(name: str, run: str, *, as_json: bool, level: int = 30) -> None:
    """Show a remote run until it ends, then its report."""
    from alpage import remote

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        console=err,
        transient=True,
        disable=as_json or not err.is_terminal,
    )
    task = bar.add_task("submitted", total=100)
    seen = ""

    def show(now: "Status") -> None:
        nonlocal seen
        if now.state != seen and not as_json:
            seen = now.state
            err.print(f"{now.name}: {now.state}", highlight=False)
        bar.update(task, description=plain(now.progress or now.state), completed=now.percent)

    def tell(line: "Line") -> None:
        # Beside the progress a failure's traceback would bury its sentence, which comes last.
        print_line(err, line if level == 0 else replace(line, text=line.text.partition("\n")[0]))

    try:
        with bar:
            ended = remote.follow(run, on_status=show, on_line=tell, level=level)
    except KeyboardInterrupt:
        err.print(
            f"no longer following, the run goes on: `alpage logs {name} --follow` follows it "
            f"again, `alpage cancel {name}` ends it",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(ended)
        return
    from alpage.engine.report import RunReport

    told = {name: value for name, value in ended["report"].items() if name != "blocks_done"}
    if told:
        print_report(RunReport(**told))
    if ended["release"]:
        url = plain(ended["release"]["url"])
        out.print(f"release: {url}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
