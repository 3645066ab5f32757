"""`textsam export`: a model as files that other runtimes read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from textsam.cli.errors import check_out, errors_as_exit
from textsam.cli.options import (
    Adapter,
    AuthorsFrame,
    Model,
    Refine,
    SamCheckpoint,
    TextEncoderFolder,
)

__all__ = ["ExportFormat", "export"]


class ExportFormat(StrEnum):
    """What can be written."""

    ONNX = "onnx"


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    export_format: Annotated[
        ExportFormat, typer.Option("--format", help="Kind of files.")
    ] = ExportFormat.ONNX,
    model: Model = "lite",
    adapter: Adapter = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help="A further prompt to answer, beside the adapter's; may be given several times.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX operator set.")] = 18,
    refine: Refine = None,
    sam_checkpoint: SamCheckpoint = None,
    text_encoder: TextEncoderFolder = None,
    authors_frame: AuthorsFrame = False,
) -> None:
    """Write a model as ONNX files that run without PyTorch."""
    check_out(out)
    with errors_as_exit():
        from textsam import api
        from textsam.export.write import check_target, export_onnx

        check_target(out)
        segmenter = api.load_model(
            model,
            adapter,
            "cpu",
            "float32",
            sam_checkpoint=sam_checkpoint,
            text_encoder=text_encoder,
            authors_frame=authors_frame or None,
            plain=True,
        )
        folder = export_onnx(segmenter, out, prompts=prompts or (), opset=opset, refine=refine)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    typer.echo(f"{folder}: {export_format.value}, {size_mb:.0f} MB, opset {opset}")
