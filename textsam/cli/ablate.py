"""`textsam ablate`: a table from many trainings that differ in one setting."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from textsam.cli.errors import EXIT_FAILED, check_out, errors_as_exit, usage_error
from textsam.cli.options import SamCheckpoint, TextEncoderFolder

__all__ = ["ablate"]


def ablate(
    file: Annotated[Path, typer.Argument(help="Ablation, e.g. configs/ablations/rank.yaml.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of all ablations; trainings are shared.")
    ] = Path("runs/ablations"),
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of training, e.g. 0,1,2; default: the file's.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Do this cell alone; may be given several times.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a setting of the base configuration: a.b=value."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or submitit for a cluster.")] = "local",
    devices: Annotated[
        str | None,
        typer.Option(help="Devices of the local engine, e.g. cuda:0,cuda:1: one job on each."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="For submitit: slurm, local or debug; default: finds out.")
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(help="For submitit: a parameter of its jobs, e.g. slurm_partition=gpu."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Do cells again that were made with other settings.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, write the table as it is, train nothing.")
    ] = False,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
) -> None:
    """Train and evaluate every cell of an ablation, and write its table and plot."""
    chosen = _numbers(seeds)
    names = _devices(devices)
    parameters = _parameters(job or [])
    if engine not in ("local", "submitit"):
        raise usage_error(f"--engine is {engine!r}; choose local or submitit")
    if engine == "local" and (cluster is not None or parameters):
        raise usage_error("--cluster and --job belong to --engine submitit")
    if engine == "submitit" and names:
        raise usage_error("--devices belongs to the local engine; a cluster's jobs take their own")
    check_out(out)
    with errors_as_exit(goes_on=True):
        from textsam.ablate.engines import Engine, InProcess, Processes, Submitit
        from textsam.ablate.job import Outcome
        from textsam.ablate.run import ablate as run_ablation
        from textsam.ablate.spec import read_ablation
        from textsam.allocator import keep_freed_memory
        from textsam.device import choose_device

        keep_freed_memory()
        for name in names:
            choose_device(name)
        chosen_engine: Engine = InProcess(names[0] if names else None)
        if engine == "submitit":
            jobs_folder = (out / read_ablation(file).name / "jobs").absolute()
            chosen_engine = Submitit(jobs_folder, cluster, parameters)
        elif len(names) > 1:
            chosen_engine = Processes(names)

        def report(outcome: Outcome) -> None:
            what = f"{outcome.cell}, seed {outcome.seed}: {outcome.state}"
            typer.echo(f"{what}; {outcome.message}" if outcome.message else what, err=True)

        result = run_ablation(
            file,
            out=out,
            seeds=chosen,
            only=only or (),
            overrides=assignments or (),
            engine=chosen_engine,
            replace=replace,
            dry_run=dry_run,
            # A dry run shows what the call without it has made.
            command=shlex.join(["textsam", *(a for a in sys.argv[1:] if a != "--dry-run")]),
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            report=report,
        )
    if dry_run:
        typer.echo(f"to do: {'; '.join(result.to_do) or 'nothing'}", err=True)
    typer.echo(result.table)
    typer.echo(f"written to {result.folder}", err=True)
    if not result.complete:
        undone = sum(outcome.state in ("failed", "busy") for outcome in result.outcomes)
        typer.echo(f"error: {undone} of {len(result.outcomes)} cells are not done", err=True)
        raise typer.Exit(EXIT_FAILED)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise usage_error(f"--seeds is {text!r}; give numbers from 0 with commas, e.g. 0,1,2")
    return [int(part) for part in parts]


def _devices(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise usage_error(f"--devices is {text!r}; give names with commas, e.g. cuda:0,cuda:1")
    return names


def _parameters(assignments: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name.strip().isidentifier():
            raise usage_error(f"--job {assignment!r}: write NAME=VALUE, e.g. timeout_min=600")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise usage_error(f"--job {assignment!r}: the value is not YAML") from error
    return found
