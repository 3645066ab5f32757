"""`textsam data`: check data sets, convert them, prepare published ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textsam.cli.errors import (
    EXIT_FAILED,
    check_out,
    errors_as_exit,
    refuse_without_use,
    usage_error,
)
from textsam.cli.sources import (
    check_one_concept,
    check_sources,
    coco_selections,
    is_configuration,
)

if TYPE_CHECKING:
    from textsam.data.defects import QualitySettings
    from textsam.data.eus import Expected
    from textsam.data.problems import DataReport, Kind

__all__ = ["app"]

app = typer.Typer(
    help="Check, convert and prepare data sets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

CocoFiles = Annotated[
    list[str] | None,
    typer.Option("--coco", help="SPLIT=FILE.json,FOLDER: a COCO file and its images; repeatable."),
]
DataArgument = Annotated[
    Path | None,
    typer.Argument(help="Data root with manifest.json, plain folder, or configuration (YAML)."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="SET/SPLIT of the manifest, or a.b=value of a configuration."),
]
Concepts = Annotated[
    list[str] | None,
    typer.Option(
        "--concept",
        help="For COCO CATEGORY=CONCEPT, repeatable; for a plain folder what its masks show.",
    ),
]
ReportFile = Annotated[
    Path | None, typer.Option("--json", help="Write the full report, every file, to this file.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="Take empty-class or same-image for a warning; repeatable."),
]


@app.command()
def check(
    context: typer.Context,
    data: DataArgument = None,
    sets: Sets = None,
    folder: Annotated[
        list[str] | None,
        typer.Option(help="Plain folder inside DATA with images/ and masks/; repeatable."),
    ] = None,
    coco: CocoFiles = None,
    concept: Concepts = None,
    limit: Annotated[int, typer.Option(min=1, help="Files shown of each kind of problem.")] = 5,
    report_file: ReportFile = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
) -> None:
    """Read every image and mask, and list all that is wrong. Nothing is changed."""
    check_sources(context, data, coco, sets, concept, plain=bool(folder))
    with errors_as_exit():
        from textsam.config import read_config
        from textsam.data.check import Checker
        from textsam.data.manifest import MANIFEST_NAME
        from textsam.data.survey import check_coco, check_folders, check_root, check_settings

        checker = Checker(progress=True)
        reports: list[DataReport] = []
        if data is None:
            reports.append(check_coco(coco_selections(coco, concept, "unknown"), checker=checker))
        elif is_configuration(data):
            settings = read_config(data, sets or ())
            reports.append(check_settings(settings.data, checker=checker))
        else:
            plain = concept[0] if concept else "object"
            own = {Path(name).as_posix(): data / name for name in folder or ()}
            if not sets and not own and not (data / MANIFEST_NAME).is_file():
                own = {".": data}
            if sets or not own:
                reports.append(check_root(data, sets or (), checker=checker))
            if own:
                alone = len(own) == 1  # then there is nothing to tell it from
                named = {"" if alone else name: path for name, path in own.items()}
                reports.append(check_folders(named, plain, checker=checker))
    for report in reports:
        typer.echo(_summary(report))
        if report.problems:
            typer.echo(report.text(limit))
    if report_file is not None:
        # After what is said: a file that cannot be written must not cost the reading.
        with errors_as_exit():
            _joined(reports).write(report_file)
    faults = sum(len(report.problems if strict else report.errors) for report in reports)
    if faults:
        count = "1 problem" if faults == 1 else f"{faults} problems"
        typer.echo(
            f"error: {count} in the data, listed on standard output; correct the files or what "
            "names them, and check again",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED)


@app.command()
def quality(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")],
    data: DataArgument = None,
    sets: Sets = None,
    coco: CocoFiles = None,
    concept: Concepts = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, such as speck_percent=2; repeatable."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Look for this finding alone; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Look at this many images, evenly spread.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Small pictures of each finding.")] = 48,
) -> None:
    """Look for doubtful masks (holes, specks, rough edges, overlaps), with pictures of each.

    Nothing is changed. Files must be readable: `textsam data check` first.
    """
    check_sources(context, data, coco, sets, concept)
    check_out(out)
    with errors_as_exit():
        from textsam.config import read_config
        from textsam.data.coco import samples_from_coco
        from textsam.data.manifest import MANIFEST_NAME
        from textsam.data.quality import assess, write_report
        from textsam.data.selection import spread
        from textsam.data.sources import PARTS, samples_of
        from textsam.data.survey import samples_in_folder, samples_in_root

        settings = _thresholds(threshold)
        if data is None:
            parts = coco_selections(coco, concept, "unknown")
            samples = [s for one in parts.values() for s in samples_from_coco(".", one)]
        elif is_configuration(data):
            own = read_config(data, sets or ()).data
            samples = [s for part in PARTS for s in samples_of(own, part)]
        elif sets or (data / MANIFEST_NAME).is_file():
            samples = samples_in_root(data, sets or ())
        else:
            samples = samples_in_folder(data, concept[0] if concept else "object")
        samples = spread(samples, limit)
        report = assess(samples, settings, kinds=kind or (), pictures=pictures, progress=True)
        path = write_report(report, out)
    typer.echo(f"{report.images} images, {report.masks} masks, {len(report.findings)} findings")
    if report.findings:
        typer.echo(report.table())
    typer.echo(str(path))


@app.command()
def convert(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="COCO file to write, or data root for --coco.")
    ],
    data: Annotated[
        Path | None, typer.Argument(help="Data root or plain folder, to write a COCO file of.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="SET/SPLIT of the manifest; repeatable.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="For a plain folder with train/, val/, test/ inside.")
    ] = None,
    coco: CocoFiles = None,
    concept: Concepts = None,
    name: Annotated[str | None, typer.Option(help="With --coco: name of the set to make.")] = None,
    modality: Annotated[str, typer.Option(help="With --coco: kind of image.")] = "unknown",
    terms: Annotated[str, typer.Option(help="With --coco: licence of the data, in words.")] = "",
    allow: Allow = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="To COCO: one annotation per region.")
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="To COCO: polygons, where they are exact.")
    ] = False,
) -> None:
    """COCO files to folders of PNG masks, or masks to a COCO file."""
    if (data is None) == (coco is None):
        raise usage_error("give either --coco (to PNG masks) or a data folder (to a COCO file)")
    if data is None:
        reason = "with --coco PNG masks are written"
        refuse_without_use(context, reason, "sets", "split", "instances", "polygons")
        if not name or not terms:
            raise usage_error("with --coco give --name and --terms of the set to make")
        check_out(out)
    else:
        reason = "with DATA a COCO file is written"
        refuse_without_use(context, reason, "name", "terms", "modality", "allow")
        if bool(sets) == bool(concept):
            raise usage_error(
                "give either --set SET/SPLIT (manifest) or --concept NAME (plain folder)"
            )
        if sets:
            refuse_without_use(context, "--set names the split with the set", "split")
        check_one_concept(concept)
        check_out(out.parent)
        if out.is_dir():
            raise usage_error(f"-o {out} is a folder; give a file, such as {out / 'masks.json'}")
    with errors_as_exit():
        from textsam.data.folder import samples_from_folder
        from textsam.data.interchange import coco_to_set, samples_to_coco
        from textsam.data.problems import Problems
        from textsam.data.selection import selection_of
        from textsam.data.sets import samples_from_manifest

        if data is None:
            parts = coco_selections(coco, concept, modality)
            made = coco_to_set(parts, out, str(name), terms=terms, allowed=_allowed(allow))
        else:
            problems = Problems()
            if sets:
                selections = [selection_of(text) for text in sets]
                samples = samples_from_manifest(data, selections, problems=problems)
            else:
                word = str((concept or [""])[0])
                samples = samples_from_folder(data, word, split=split, problems=problems)
            made = samples_to_coco(
                samples,
                out,
                data,
                instances=instances,
                polygons=polygons,
                found=problems.found,
            )
            if polygons:
                typer.echo(json.loads(made.read_text(encoding="utf-8"))["info"]["note"])
    typer.echo(str(made))


@app.command("prepare-eus")
def prepare_eus(
    raw: Annotated[
        Path, typer.Argument(help="Folder with train/, val/, test/, each with images/ and masks/.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, e.g. data/eus.")],
    patient: Annotated[
        str | None,
        typer.Option(
            help="Pattern of the patient at the beginning of a name inside images/, or 'none' to "
            "check no patients. Default: the folder, else letters and number."
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=IMAGES/PATIENTS instead of the published numbers; repeatable."),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            help="JSON of split to patients, to divide images that lie in one images/ folder."
        ),
    ] = None,
    allow: Allow = None,
) -> None:
    """Lay out the Endoscopic Ultrasound Database of the Pancreas for configs/eus.yaml.

    Counts, patients and every file are checked first; nothing is written if something is wrong.
    """
    check_out(out)
    with errors_as_exit():
        from textsam.data.eus import PATIENT_PATTERN, PUBLISHED
        from textsam.data.eus import prepare_eus as prepare

        prepared = prepare(
            raw,
            out,
            patient=None if patient == "none" else patient or PATIENT_PATTERN,
            expected={**PUBLISHED, **_expected(expect)},
            patients_of=None if patients is None else _patients(patients),
            allowed=_allowed(allow),
            progress=True,
        )
    if prepared.report.problems:
        typer.echo(prepared.report.text(), err=True)
    for split, facts in prepared.record["splits"].items():
        sizes = ", ".join(f"{size} px ({count})" for size, count in facts["sizes_px"].items())
        known = facts["patients"]
        who = "patients not checked" if known is None else f"{len(known)} patients"
        typer.echo(f"{split}: {facts['images']} images, {who}, {sizes}")
    typer.echo(str(prepared.folder))


def _thresholds(texts: list[str] | None) -> QualitySettings:
    from pydantic import ValidationError

    from textsam.data.defects import QualitySettings
    from textsam.errors import ConfigError
    from textsam.invalid import invalid_fields

    values: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator:
            raise usage_error(f"--threshold {text}: write NAME=VALUE, e.g. speck_percent=2")
        values[name.strip()] = value
    try:
        return QualitySettings.model_validate(values)
    except ValidationError as error:
        known = ", ".join(QualitySettings.model_fields)
        problems = invalid_fields(error, "threshold", model=QualitySettings)
        raise ConfigError(f"--threshold: {problems}; the thresholds are {known}") from error


def _allowed(kinds: list[str] | None) -> frozenset[Kind]:
    from textsam.data.problems import ALLOWABLE

    unknown = sorted(set(kinds or ()) - ALLOWABLE)
    if unknown:
        raise usage_error(f"--allow {unknown[0]}: choose from {', '.join(sorted(ALLOWABLE))}")
    return frozenset(kind for kind in ALLOWABLE if kind in (kinds or ()))


def _expected(texts: list[str] | None) -> dict[str, Expected]:
    from textsam.data.eus import Expected

    numbers: dict[str, Expected] = {}
    for text in texts or ():
        split, _, counts = text.partition("=")
        images, _, patients = counts.partition("/")
        whole = images.isdecimal() and patients.isdecimal()
        if split not in ("train", "val", "test") or not whole:
            raise usage_error(f"--expect {text}: write SPLIT=IMAGES/PATIENTS, e.g. val=986/2")
        numbers[split] = Expected(int(images), int(patients))
    return numbers


def _patients(path: Path) -> dict[str, list[str]]:
    from textsam.errors import DataError

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in content.values()
    ):
        raise DataError(f"{path} must map train, val and test to lists of patients")
    return content


def _joined(reports: list[DataReport]) -> DataReport:
    from textsam.data.problems import DataReport

    # A folder may be called as a set of the manifest; then both are counted under the name.
    samples: Counter[str] = Counter()
    for report in reports:
        samples.update(report.samples)
    return DataReport(
        problems=tuple(problem for report in reports for problem in report.problems),
        samples=samples,
        allowed=frozenset().union(*(report.allowed for report in reports)),
        files=max(report.files for report in reports),
        seconds=max(report.seconds for report in reports),
    )


def _summary(report: DataReport) -> str:
    counts = ", ".join(f"{part or 'images'} {count}" for part, count in report.samples.items())
    return (
        f"{counts or 'no images'}: {len(report.errors)} errors, {len(report.warnings)} warnings "
        f"({report.files} files read in {report.seconds:.1f} s)"
    )
