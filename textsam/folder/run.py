"""A run over many inputs that keeps a manifest, goes on where it was stopped, and sums up."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from textsam.caller import warn_caller
from textsam.errors import ConfigError, OutputError, TextSAMWarning
from textsam.folder.coco import write_run_coco
from textsam.folder.manifest import InputRecord, Manifest, file_identity
from textsam.folder.names import RASTER_ENDS, answer_name
from textsam.folder.options import Options
from textsam.folder.plan import Input, Plan, make_plan
from textsam.folder.process import Listener, process
from textsam.folder.report import write_report
from textsam.folder.sheet import write_sheets
from textsam.folder.summary import write_summary

if TYPE_CHECKING:
    from textsam.inference.segmenter import Segmenter

__all__ = ["FolderSummary", "LeftoverWarning", "check_fresh", "run_plan", "segment_folder"]


class LeftoverWarning(TextSAMWarning):
    """Files lie beside the outputs of a run that answer what an input held before."""


@dataclass(frozen=True)
class FolderSummary:
    """What came of a run.

    Attributes:
        plan: what was to be done.
        done: inputs segmented now, all of whose images succeeded.
        failed: inputs with an image that failed.
        skipped: inputs that an earlier run had done.
        no_picture: DICOM files that hold something else than a picture.
        images: images answered now.
        seconds: time of this call.
        manifest: one JSON line per finished input.
        summary: the CSV table of all inputs of the plan, skipped ones too. It, the report, the COCO
            file and the sheets have the name of the input before theirs where that is one file
            given by its own name, so that calls for one file each can share a folder.
        report: what the run depended on, and all answers, as JSON.
        coco: the COCO file, where it was asked for.
        sheets: the contact sheets, where they were asked for.
    """

    plan: Plan
    done: int
    failed: int
    skipped: int
    no_picture: int
    images: int
    seconds: float
    manifest: Path
    summary: Path
    report: Path
    coco: Path | None
    sheets: tuple[Path, ...]
    _manifest: Manifest

    def records(self) -> Iterator[InputRecord]:
        """The records of all inputs of the plan, in order, read one by one from the manifest."""
        return _records(self.plan, self._manifest)


def segment_folder(
    segmenter: Segmenter,
    sources: str | Path | Sequence[str | Path],
    prompts: str | Sequence[str],
    out: str | Path,
    options: Options | None = None,
    *,
    recursive: bool = False,
    series: bool = False,
    shard: tuple[int, int] = (1, 1),
    resume: bool = False,
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> FolderSummary:
    """Segment all images of a folder into files, whatever their number, in constant memory.

    One line per finished input goes into `manifest-i-of-n.jsonl` in `out`, after the input's
    outputs are in place; at the end all inputs go into `summary.csv` (`STEM_summary.csv` where
    one file is given by its name). An input that fails is noted there and does not stop the others.

    Args:
        segmenter: from `load_model`.
        sources, prompts, out, options, recursive, series, shard: as for `make_plan`. Shards may
            run at the same time with the same `out`.
        resume: go on with what is in `out`: leave out inputs that are in a manifest with the same
            content, prompts, adapter and options, and whose outputs are all there in their size.
        batch_size: as for `Segmenter.segment_batch`.
        listener: is told how the run goes.

    Raises:
        ConfigError: no input, contradicting options, outputs over inputs, or a manifest of an
            earlier run without `resume`.
        PromptError: a prompt that cannot be used.
        DataError: a damaged manifest.
        OutputError: outputs cannot be written any more; what was finished stays in the manifest.

    Warns:
        LeftoverWarning: with `resume`, of an input that has changed: outputs of the earlier run are
            left that this one does not write again, such as masks of slices that are gone.
    """
    plan = make_plan(
        sources, prompts, out, options, recursive=recursive, series=series, shard=shard
    )
    return run_plan(segmenter, plan, resume=resume, batch_size=batch_size, listener=listener)


def check_fresh(plan: Plan, *, resume: bool) -> None:
    """Refuse to begin anew in a folder where a run was begun.

    Raises:
        ConfigError: there is a manifest of the same shard, or of another number of shards.
    """
    if resume:
        return
    for path in sorted(plan.out.glob("manifest-*-of-*.jsonl")):
        if not path.stat().st_size:  # of a run refused before its first image
            continue
        same = path == Manifest.file_for(plan.out, plan.label)
        if same or not path.stem.endswith(f"-of-{plan.shard[1]}"):
            raise ConfigError(
                f"{path} is there from an earlier run; go on with that run by --resume, give "
                "another -o, or delete it to do everything again"
            )


def run_plan(
    segmenter: Segmenter,
    plan: Plan,
    *,
    resume: bool = False,
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> FolderSummary:
    """Do what a plan says; see `segment_folder`."""
    check_fresh(plan, resume=resume)
    told = listener or Listener()
    began, started = time.perf_counter(), datetime.now(UTC)
    count = Counter[str]()
    images = 0
    told.planned(plan)
    with Manifest(plan.out, plan.label) as manifest, _to_be_resumed():
        left = list(plan.inputs)
        if resume:
            left = list(_not_done(segmenter, plan, manifest, told))
        for record in process(segmenter, plan, left, told, batch_size=batch_size):
            before = manifest.get(record.input)
            if before is not None and record.finished <= before.finished:
                # A clock went back, or that of another machine went ahead; this line is the later.
                record.finished = math.nextafter(before.finished, math.inf)
            manifest.add(record)
            told.finished(record)
            if before is not None:
                _warn_of_leftovers(before, record, plan.out)
            count[record.status] += 1
            images += len(record.results) // len(plan.prompts)
        summary = write_summary(
            plan.out / f"{plan.about_all('summary')}.csv", _records(plan, manifest)
        )
        report = write_report(
            plan.out / f"{plan.about_all('report')}.json",
            segmenter,
            plan,
            lambda: _records(plan, manifest),
            started,
        )
        coco = None
        if "coco" in plan.options.formats:
            coco = write_run_coco(
                plan.out / f"{plan.about_all('coco')}.json",
                plan.prompts,
                lambda: _records(plan, manifest),
            )
        sheets: list[Path] = []
        if plan.options.sheet:
            sheets = write_sheets(_tiles(plan, manifest), plan.out, plan.about_all("sheet"))
    return FolderSummary(
        plan=plan,
        done=count["done"],
        failed=count["failed"],
        no_picture=count["no picture"],
        skipped=len(plan.inputs) - len(left),
        images=images,
        seconds=time.perf_counter() - began,
        manifest=manifest.path,
        summary=summary,
        report=report,
        coco=coco,
        sheets=tuple(sheets),
        _manifest=manifest,
    )


@contextmanager
def _to_be_resumed() -> Iterator[None]:
    """Where a manifest holds what was done, say how to go on."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}, then go on with --resume") from error


def _not_done(
    segmenter: Segmenter, plan: Plan, manifest: Manifest, told: Listener
) -> Iterator[Input]:
    model, options = segmenter.identity, plan.options.fingerprint()
    for item in plan.inputs:
        record = manifest.get(item.name)
        if record is not None and _holds(record, item, plan, model, options):
            told.skipped(record)
        else:
            yield item


def _holds(record: InputRecord, item: Input, plan: Plan, model: str, options: str) -> bool:
    """Whether doing an input again would give what its record says."""
    asked = (item.base, list(plan.prompts), model, options)
    if (record.base, record.prompts, record.model, record.options) != asked:
        return False
    if not (record.is_complete(plan.out) and _named_alike(record, plan)):
        return False
    try:
        return record.files == file_identity(item.paths)
    except OSError:
        return False


def _named_alike(record: InputRecord, plan: Plan) -> bool:
    """Whether the masks of a record lie where the plan puts them.

    Told from their names, which the records of all versions have.
    """
    for number, result in enumerate(record.results):
        mask = result["files"].get("mask")
        if mask is None:
            continue
        if plan.mask_file is not None:
            names = {plan.mask_file.name}
        else:
            slug = plan.slugs[number % len(plan.slugs)]
            name = answer_name(record.base, slug, result["frame"])
            names = {name + end for end in RASTER_ENDS.values()}
        if mask not in names:
            return False
    return True


def _warn_of_leftovers(before: InputRecord, now: InputRecord, out: Path) -> None:
    """Warn of outputs of an earlier record that are no answers to what the input holds now.

    Such are the masks of the last slices of a stack that has become shorter. They are left where
    they are: a stack may be short because it is still being copied.

    Args:
        before: the record of the earlier run.
        now: the record of this one, about the same input.
        out: the output folder.
    """
    # An input that cannot be read has no files; what is left of it may be as good as ever.
    if not now.files or now.files == before.files:
        return
    left = [name for name in before.outputs if name not in now.outputs and (out / name).is_file()]
    if not left:
        return
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    warn_caller(
        f"{now.input} has changed since an earlier run, which left files in {out} that answer what "
        f"it held before: {min(left)}{more}; delete those you do not need",
        LeftoverWarning,
    )


def _records(plan: Plan, manifest: Manifest) -> Iterator[InputRecord]:
    for item in plan.inputs:
        record = manifest.get(item.name)
        if record is not None:
            yield record


def _tiles(plan: Plan, manifest: Manifest) -> Iterator[Path]:
    for record in _records(plan, manifest):
        for result in record.results:
            if "thumbnail" in result["files"]:
                yield plan.out / result["files"]["thumbnail"]
