"""`textsam pacs`: a study in an archive in, DICOM SEG in the archive out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from textsam.cli.errors import EXIT_FAILED, errors_as_exit
from textsam.cli.options import (
    Adapter,
    Device,
    JsonReport,
    MaxInflatedBytes,
    MaxPixels,
    Model,
    Precision,
    Refine,
    SamCheckpoint,
    Strict,
    TextEncoderFolder,
    given_limits,
)

if TYPE_CHECKING:
    from textsam.pacs.plan import Refused
    from textsam.pacs.summary import SeriesSummary

__all__ = ["pacs"]


def pacs(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="What to segment.")],
    dicomweb: Annotated[
        str,
        typer.Option(metavar="URL", help="Root of the service: https://pacs.example/dicom-web."),
    ],
    study: Annotated[str, typer.Option(metavar="UID", help="Study Instance UID.")],
    series: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Series Instance UID; default: all with images."),
    ] = None,
    fractional: Annotated[
        bool, typer.Option("--fractional", help="Store probabilities instead of masks.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be segmented; fetch no images.")
    ] = False,
    model: Model = "lite",
    adapter: Adapter = None,
    refine: Refine = None,
    device: Device = "auto",
    precision: Precision = "auto",
    window: Annotated[
        int,
        typer.Option(min=-1, help="Which window of grey values is shown, from 0; -1: all values."),
    ] = 0,
    no_crop: Annotated[
        bool, typer.Option("--no-crop", help="Show the model all of an ultrasound image.")
    ] = False,
    strict: Strict = False,
    as_json: JsonReport = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="Longest wait for the archive, in seconds.")
    ] = 60.0,
    ca: Annotated[
        Path | None,
        typer.Option(help="File of certificates (PEM) to trust instead of the usual ones."),
    ] = None,
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http", help="Let images cross a network unencrypted, as behind a tunnel."
        ),
    ] = False,
    max_pixels: MaxPixels = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="Most images of one series.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Most that is fetched of one series, in bytes.")
    ] = None,
    max_inflated_bytes: MaxInflatedBytes = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
) -> None:
    """Segment images of a study in an archive (DICOMweb) and store the masks there as DICOM SEG.

    Credentials come from the environment: TEXTSAM_PACS_TOKEN, or TEXTSAM_PACS_USER and
    TEXTSAM_PACS_PASSWORD. The same question is stored once: a second run finds it already there.
    Exit code 0: all series done; 1: at least one failed; 2: wrong usage; 143: ended by SIGTERM.
    """
    with errors_as_exit(), _ended_by_sigterm():
        from textsam.pacs import connect, plan_study
        from textsam.pacs.summary import plan_to_dict

        with connect(
            dicomweb,
            ca=ca,
            timeout_s=timeout_s,
            allow_http=allow_http,
            limits=given_limits(
                max_pixels=max_pixels,
                max_images=max_images,
                max_bytes=max_bytes,
                max_inflated_bytes=max_inflated_bytes,
            ),
        ) as client:
            # Before the model is loaded, which takes longer.
            plan = plan_study(client, study, series)
            if not as_json:
                for skipped in plan.skipped:
                    kind = skipped.modality or "series"
                    typer.echo(f"skipped {kind} {skipped.series_uid}: {skipped.reason}")
            if dry_run:
                if as_json:
                    typer.echo(json.dumps(plan_to_dict(plan, client.address.label), indent=2))
                else:
                    for chosen in plan.chosen:
                        images = _count(chosen.frames)
                        typer.echo(f"would segment {chosen.modality} {chosen.series_uid}: {images}")
                _end_with(plan.refused)
                return
            from textsam.api import load_model
            from textsam.pacs import segment_study

            segmenter = load_model(
                model,
                adapter,
                device,
                precision,
                sam_checkpoint=sam_checkpoint,
                text_encoder=text_encoder,
            )
            summary = segment_study(
                segmenter,
                client,
                study,
                prompts,
                series_uid=series,
                fractional=fractional,
                refine=refine,
                window=window,
                crop=not no_crop,
                strict=strict,
                on_series=None if as_json else _report,
            )
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
    _end_with(summary.failed)


def _end_with(failed: Sequence[SeriesSummary | Refused]) -> None:
    """Tell which series failed; exit with 1 where there is one."""
    for one in failed:
        typer.echo(f"error: series {one.series_uid}: {one.error}", err=True)
    if failed:
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that no images stay in a temporary folder."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(series: SeriesSummary) -> None:
    if series.status == "failed":
        return  # on standard error, at the end
    found = "; ".join(f"{prompt} in {count}" for prompt, count in series.found.items())
    count = len(series.seg_instance_uids)
    typer.echo(
        f"{series.modality} {series.series_uid}: {_count(series.images)}"
        f"{', found ' + found if found else ''}; {series.status}: {count} SEG in series "
        f"{series.seg_series_uid}"
    )
    for warning in series.warnings:
        typer.echo(f"warning: the archive changed or doubted {warning}", err=True)


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"
