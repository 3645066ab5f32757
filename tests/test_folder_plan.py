"""Runs over folders, before anything is segmented: what is found, named, split and refused."""

from __future__ import annotations

import os
import string
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cli_runs import write_image
from dicom_files import bundled
from hypothesis import given, settings
from hypothesis import strategies as st

from textsam.errors import ConfigError, PromptError
from textsam.folder import plan as plan_module
from textsam.folder.find import find_images
from textsam.folder.names import bases, slugs, stem_of
from textsam.folder.options import Options
from textsam.folder.plan import Input, make_plan, shard_of
from textsam.io.limits import Limits

_NAMES = st.text(alphabet="abA._-1", min_size=1, max_size=6).filter(lambda n: n not in (".", ".."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)


def names_of(source: Path, out: Path, **options: Any) -> list[str]:
    return [item.name for item in make_plan(source, "tumor", out, **options).inputs]


def test_images_are_found_by_name_and_by_content(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("b.png", "a.JPG", "deep/c.png", ".hidden.png", ".git/d.png"):
        write_image(folder / name)
    (folder / "no_suffix").write_bytes(bundled("CT_small.dcm").read_bytes())
    (folder / "picture").write_bytes((folder / "b.png").read_bytes())
    (folder / "DICOMDIR").write_bytes(bundled("CT_small.dcm").read_bytes())
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / "archive.tar.gz").write_bytes(b"\x1f\x8b\x08\0")
    flat = ["a.JPG", "b.png", "broken.nii.gz", "no_suffix", "picture"]
    assert names_of(folder, tmp_path / "out") == flat
    assert names_of(folder, tmp_path / "out", recursive=True) == sorted([*flat, "deep/c.png"])
    # The root of a disk, with what its user may not list or has deleted.
    for name in ("lost+found", "System Volume Information", "$RECYCLE.BIN"):
        write_image(folder / name / "e.png")
    assert names_of(folder, tmp_path / "out", recursive=True) == sorted([*flat, "deep/c.png"])


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "a" / "one.png")
    write_image(tmp_path / "elsewhere" / "two.png")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(folder / "a")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    found = find_images(folder, recursive=True, skip=tmp_path / "out")
    assert found == ["a/one.png", "b/one.png", "linked/two.png"]


def test_links_that_lead_nowhere_or_to_themselves(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    for link, target in (("loop", "loop"), ("x.png", "x.png"), ("gone", "missing")):
        (tmp_path / link).symlink_to(target)
    # What is called like an image is one that cannot be read, and said to be so when it is.
    assert names_of(tmp_path, tmp_path, recursive=True) == ["a.png", "x.png"]


def test_a_link_that_is_an_input_is_not_replaced(tmp_path: Path) -> None:
    write_image(tmp_path / "scans" / "a.png")
    write_image(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "scans" / "a_tumor.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan(tmp_path / "scans", "tumor", tmp_path / "scans")


def test_a_pipe_does_not_hold_a_run_up(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    os.mkfifo(tmp_path / "in" / "pipe")
    assert names_of(tmp_path / "in", tmp_path / "out") == ["a.png"]


def test_the_output_folder_is_not_read(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "masks" / "a_tumor.png")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "masks")
    for out in (tmp_path / "in" / "masks", tmp_path / "link"):
        assert names_of(tmp_path / "in", out, recursive=True) == ["a.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "deep" / "a.png")
    with pytest.raises(ConfigError, match=r"holds no image.*directly inside it"):
        make_plan(tmp_path / "in", "tumor", tmp_path / "out")
    with pytest.raises(PromptError, match="list of prompts is empty"):
        make_plan(tmp_path / "in", [], tmp_path / "out", recursive=True)


def test_no_source_is_told_as_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the list of sources is empty; give a file or a folder"):
        make_plan([], "tumor", tmp_path / "out")


def test_outputs_lie_in_folders_of_the_same_names(tmp_path: Path) -> None:
    for name in ("x/scan.png", "x/scan.tif", "y/scan.png"):
        write_image(tmp_path / "in" / name)
    plan = make_plan(tmp_path / "in", "tumor", tmp_path / "out", recursive=True)
    assert [item.base for item in plan.inputs] == ["x/scan_png", "x/scan_tif", "y/scan"]


@settings(deadline=None)
@given(st.lists(_PATHS, max_size=12, unique=True))
def test_bases_differ_even_where_case_is_ignored(paths: list[str]) -> None:
    made = bases(paths)
    assert len(made) == len(paths)
    assert len({base.casefold() for base in made}) == len(paths)
    for path, base in zip(paths, made, strict=True):
        assert Path(base).parent == Path(path).parent


@settings(deadline=None)
@given(st.lists(st.text(string.ascii_letters + " _/.0123456789腫", max_size=8), max_size=8))
def test_slugs_differ_and_cannot_be_taken_for_a_number_or_an_overlay(prompts: list[str]) -> None:
    made = slugs(prompts)
    assert len({slug.casefold() for slug in made}) == len(prompts)
    for slug in made:
        assert slug
        assert not set(slug) & set("_/.")
        assert not slug.isascii() or not slug.isdigit()
        assert slug != "overlay"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("scan.png", "scan"), ("scan.nii.gz", "scan"), ("scan.NII", "scan"), ("a.b.JPEG", "a.b"),
        ("1.2.840.113", "1.2.840.113"), ("1.2.dcm", "1.2"), ("IM0001", "IM0001"), (".png", ".png"),
    ],
)  # fmt: skip
def test_stems_lose_the_suffix_of_an_image_alone(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_are_disjoint_and_complete(count: int, shards: int) -> None:
    inputs = [Input(str(n), (Path(str(n)),), str(n)) for n in range(count)]
    parts = [shard_of(inputs, number, shards) for number in range(1, shards + 1)]
    assert sorted((item.name for part in parts for item in part), key=int) == [
        item.name for item in inputs
    ]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_give_the_names_that_the_whole_gives(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png", "c.png", "deep/a.png"):
        write_image(tmp_path / "in" / name)

    def targets(shard: tuple[int, int]) -> set[str]:
        plan = make_plan(tmp_path / "in", "tumor", tmp_path / "o", recursive=True, shard=shard)
        return {item.base for item in plan.inputs}

    parts = [targets((number, 3)) for number in (1, 2, 3)]
    assert set.union(*parts) == targets((1, 1)) == {"a_png", "a_jpg", "b", "c", "deep/a"}
    assert sum(map(len, parts)) == 5
    for wrong in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(ConfigError, match="does not exist"):
            targets(wrong)


def test_several_sources_keep_their_names_apart(tmp_path: Path) -> None:
    for name in ("x/scan.png", "y/scan.png", "single.png"):
        write_image(tmp_path / name)
    sources = [tmp_path / "x", tmp_path / "y", tmp_path / "single.png"]
    plan = make_plan(sources, "tumor", tmp_path / "out")
    assert [item.name for item in plan.inputs] == ["single.png", "x/scan.png", "y/scan.png"]
    assert [item.named for item in plan.inputs] == [True, False, False]
    with pytest.raises(ConfigError, match=r"both called 'single\.png'"):
        make_plan([tmp_path / "single.png", tmp_path / "single.png"], "tumor", tmp_path / "out")


@pytest.mark.parametrize("dots", [".", "..", "sub/..", "sub/../../work"])
def test_folders_given_by_dots_are_called_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dots: str
) -> None:
    for name in ("work/a.png", "work/sub/a.png", "other/b.png"):
        write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path / "work" / ("sub" if dots == ".." else ""))
    plan = make_plan([dots, tmp_path / "other"], "tumor", tmp_path / "out")
    assert [item.base for item in plan.inputs] == ["other/b", "work/a"]
    # So that an output over an input is seen, too.
    (tmp_path / "work" / "a_tumor.png").write_bytes((tmp_path / "work" / "a.png").read_bytes())
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan([dots, tmp_path / "other"], "tumor", tmp_path)


def test_the_root_of_the_file_system_has_no_name_for_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png")
    monkeypatch.setattr(plan_module, "find_images", lambda *_, **__: ["b.png"])
    assert make_plan("/", "tumor", tmp_path / "out").inputs[0].base == "b"
    with pytest.raises(ConfigError, match=r"^/: .* has no name .* of its own"):
        make_plan(["/", tmp_path], "tumor", tmp_path / "out")


@pytest.mark.parametrize("name", ["/etc/b.png", "../b.png", "x/../../b.png"])
def test_no_output_lies_outside_of_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(plan_module, "find_images", lambda *_, **__: [name])
    with pytest.raises(ConfigError, match=r"would lie outside of .*out"):
        make_plan(tmp_path, "tumor", tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["a_tumor.png", "a_tumor_0003.png", "a_tumor_0003_overlay.png", "a_tumor.nii.gz", "a_seg.dcm"],
)
def test_outputs_may_not_replace_inputs(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan(tmp_path, "tumor", tmp_path)
    if "seg" not in name:
        assert len(make_plan(tmp_path, "lung", tmp_path).inputs) == 2


@pytest.mark.parametrize(
    "name", ["sheet-001.png", "thumbnails/a_tumor.jpg", "thumbnails/a_tumor_0003.jpg"]
)
def test_contact_sheets_may_not_replace_inputs(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / name)
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan(tmp_path, "tumor", tmp_path, Options(sheet=True), recursive=True)
    assert len(make_plan(tmp_path, "tumor", tmp_path, recursive=True).inputs) == 2


@pytest.mark.parametrize("name", ["summary.csv", "report.json", "coco.json", "sheet-001.png"])
def test_files_about_all_may_not_replace_inputs(tmp_path: Path, name: str) -> None:
    out, options = tmp_path / "out", Options(sheet=True)
    write_image(out / "picture.png").rename(out / name)
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan(out, "tumor", out, options)
    (out / name).rename(out / f"a_{name}")
    (tmp_path / "a.png").symlink_to(out / f"a_{name}")
    with pytest.raises(ConfigError, match="would overwrite"):
        make_plan(tmp_path / "a.png", "tumor", out, options)
    assert make_plan(out, "tumor", out, options).about_all("summary") == "summary"


def test_a_mask_file_lies_where_outputs_do(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="is not in the folder of outputs"):
        make_plan(tmp_path / "a.png", "tumor", tmp_path / "out", mask_file=tmp_path / "x" / "m.png")


def test_series_are_one_input_each(tmp_path: Path) -> None:
    import pydicom

    folder = tmp_path / "in"
    (folder / "other").mkdir(parents=True)
    for number, (where, uid) in enumerate(
        [("", "1.2.1"), ("", "1.2.2"), ("", "1.2.1"), ("other/", "1.2.1")]
    ):
        dataset = pydicom.dcmread(bundled("CT_small.dcm"))
        dataset.SeriesInstanceUID = uid
        dataset.save_as(folder / f"{where}IM{number}")
    write_image(folder / "a.png")
    (folder / "bad.dcm").write_bytes(b"no DICOM")
    plan = make_plan(folder, "tumor", tmp_path / "out", series=True, recursive=True)
    assert {item.name: [path.name for path in item.paths] for item in plan.inputs} == {
        "IM0": ["IM0", "IM2"],
        "IM1": ["IM1"],
        "a.png": ["a.png"],
        "bad.dcm": ["bad.dcm"],
        "other/IM3": ["IM3"],
    }
    assert len(make_plan(folder, "tumor", tmp_path / "out").inputs) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ()}, "no format"),
        ({"formats": ("gif",)}, "'gif' is unknown"),
        ({"formats": "png,coco"}, "'png,coco' is unknown"),
        ({"frame": -1}, "frame is -1"),
        ({"axis": 3}, "axes 0, 1 and 2"),
        ({"window": -2}, "window is -2"),
        ({"refine": -1}, "refine is -1"),
        ({"refine": "settled"}, "refine is 'settled'"),
        ({"refine": {"tolerance_px": 1}}, "refine is {"),
        ({"frame": "1"}, "frame is '1'"),
        ({"frame": 1.5}, "frame is 1.5"),
        ({"window": None}, "window is None"),
        ({"fractional": True}, "add the format seg"),
        ({"formats": ("nifti",), "frame": 1}, "all its slices"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**changes)
    assert Options(formats="coco").formats == ("coco",)  # type: ignore[arg-type]


def test_every_option_that_changes_outputs_changes_the_fingerprint() -> None:
    other: dict[str, Any] = {
        "formats": ("png", "seg"), "frame": 1, "axis": 0, "window": 1, "crop": False,
        "overlay": True, "sheet": True, "refine": 0,
    }  # fmt: skip
    prints = {Options().fingerprint()}
    for name, value in other.items():
        prints.add(replace(Options(), **{name: value}).fingerprint())
    prints.add(Options(formats=("png", "seg"), fractional=True).fingerprint())
    assert len(prints) == len(other) + 2
    assert {field.name for field in fields(Options)} == {
        *other, "fractional", "strict", "limits",
    }  # fmt: skip
    same = Options(strict=True, limits=Limits(max_pixels=5))
    assert same.fingerprint() == Options().fingerprint()
    assert (
        Options(formats=("seg", "png", "seg")).fingerprint()
        == Options(formats=("png", "seg")).fingerprint()
    )
