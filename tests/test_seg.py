"""DICOM SEG: pixels, places, references and words read back with highdicom, pydicom and dcmtk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
import pytest
from dicom_sources import AXIAL, base, rotation, save, write_enhanced, write_series
from highdicom.seg import Segmentation as Seg
from highdicom.seg import segread
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.uid import UID

import textsam
import textsam.io.seg as seg_module
from textsam.errors import ConfigError, ImageError, PromptError, TextSAMError
from textsam.io.dicom import DicomStack, open_dicom, open_series
from textsam.io.open import open_stack
from textsam.io.seg import seg_datasets, seg_identity, write_seg
from textsam.io.seg_source import frame_geometry, group_frames
from textsam.result import Segmentation

Answers = dict[int, list[Segmentation]]


def bundled(name: str) -> DicomStack:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return open_dicom(path)


def answer(
    stack: DicomStack, index: int, mask: NDArray[np.bool_], prompt: str = "tumor", **changes: Any
) -> Segmentation:
    parts: dict[str, Any] = {
        "mask": mask,
        "probability": mask.astype(np.float32) * np.float32(0.75),
        "score": 0.875,
        "found": bool(mask.any()),
        "prompt": prompt,
        "image": stack.read(index),
        "adapter": "lite-generalist",
        "model": "lite",
    }
    return Segmentation(**{**parts, **changes})


def empty(stack: DicomStack, index: int) -> NDArray[np.bool_]:
    return np.zeros(stack.read(index).size_px, bool)


def block(stack: DicomStack, index: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = empty(stack, index)
    mask[rows, columns] = True
    return mask


def random_answers(
    stack: DicomStack, prompts: Sequence[str] = ("tumor", "lung"), seed: int = 0
) -> Answers:
    draw = np.random.default_rng(seed)
    return {
        index: [
            answer(stack, index, draw.random(stack.read(index).size_px) < 0.3, prompt)
            for prompt in prompts
        ]
        for index in range(len(stack))
    }


def read_back(dataset: pydicom.Dataset, folder: Path) -> Seg:
    path = folder / "read_back.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return segread(path)


def stored_masks(dataset: pydicom.Dataset) -> Iterator[tuple[int, str, int, NDArray[Any], Any]]:
    """(segment, source UID, source frame from 1 or 0, pixels, per-frame item) of each frame."""
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, item in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = item if "SegmentIdentificationSequence" in item else shared
        number = place.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        yield (
            int(number),
            str(source.ReferencedSOPInstanceUID),
            int(source.get("ReferencedFrameNumber", 0)),
            frame,
            item,
        )


# --- places in the patient --------------------------------------------------------------------


def viewer_centroid(dataset: pydicom.Dataset, frame: NDArray[Any], item: Any) -> NDArray[Any]:
    """Where a viewer puts the centre of a frame's pixels, from the SEG alone (PS3.3 C.7.6.2)."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    rows, columns = np.nonzero(frame)
    along_row = cosines[:3] * float(between_columns) * columns.mean()
    return np.asarray(position + along_row + cosines[3:] * float(between_rows) * rows.mean())


number = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 6))


@settings(max_examples=12, deadline=None)
@given(
    angles=st.tuples(number, number, number).map(lambda a: [3.14 * value for value in a]),
    origin=st.tuples(number, number, number).map(lambda p: [300 * value for value in p]),
    spacing=st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    distance=st.floats(0.2, 8),
    size=st.tuples(st.integers(8, 19), st.integers(8, 19)),
    count=st.integers(1, 4),
    kinds=st.lists(st.sampled_from(["empty", "full", "pixel", "random"]), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_centroids_in_the_patient_and_pixels_survive(
    angles: list[float],
    origin: list[float],
    spacing: tuple[float, float],
    distance: float,
    size: tuple[int, int],
    count: int,
    kinds: list[str],
    seed: int,
) -> None:
    axes = rotation(angles)
    positions = [np.array(origin) + axes[:, 2] * distance * at for at in range(count)]
    draw = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orientation = [*axes[:, 0], *axes[:, 1]]
        write_series(folder, positions, size=size, orientation=orientation, spacing=spacing)
        stack = open_series(folder)
        answers: Answers = {}
        for index in range(count):
            mask = np.zeros(size, bool)
            kind = kinds[index]
            if kind == "full":
                mask[:] = True
            elif kind == "pixel":
                mask[draw.integers(size[0]), draw.integers(size[1])] = True
            elif kind == "random":
                mask[:] = draw.random(size) < 0.3
            answers[index] = [
                answer(stack, index, mask, "tumor"),
                answer(stack, index, ~mask, "lung"),
            ]
        (dataset,) = seg_datasets(stack, answers)
        uids = [str(header.SOPInstanceUID) for header in stack.headers]
        seen = set()
        for segment, uid, _, frame, item in stored_masks(dataset):
            asked = answers[uids.index(uid)][segment - 1]
            seen.add((uids.index(uid), segment - 1))
            assert np.array_equal(frame, asked.mask)
            if asked.centroid_mm is not None:
                assert viewer_centroid(dataset, frame, item) == pytest.approx(
                    np.array(asked.centroid_mm), rel=1e-6, abs=1e-4
                )
        # What is not stored was empty.
        for index, given_ in answers.items():
            for at, asked in enumerate(given_):
                assert (index, at) in seen or not asked.mask.any()
        loaded = read_back(dataset, folder)
        pixels = loaded.get_pixels_by_source_instance(uids, ignore_spatial_locations=False)
        for index, given_ in answers.items():
            for at, asked in enumerate(given_):
                assert np.array_equal(pixels[index, :, :, at] > 0, asked.mask)


def test_a_series_is_one_volume_for_a_viewer(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, 2.5 * at) for at in range(4)])
    stack = open_series(tmp_path / "in")
    answers = random_answers(stack, ["lung"])
    (dataset,) = seg_datasets(stack, answers)
    loaded = read_back(dataset, tmp_path)
    volume = loaded.get_volume()
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.5))
    assert loaded.FrameOfReferenceUID == stack.headers[0].FrameOfReferenceUID
    for at, slice_ in enumerate(volume.array[..., 0]):
        height_mm = volume.map_indices_to_reference(np.array([[at, 0, 0]]))[0, 2]
        assert np.array_equal(slice_ > 0, answers[round(height_mm / 2.5)][0].mask)


def test_positions_are_copied_digit_by_digit(tmp_path: Path) -> None:
    write_series(tmp_path, [(-123.456789012, 7.1, 0.333333333333), (-123.456789012, 7.1, 2)])
    stack = open_series(tmp_path)
    (dataset,) = seg_datasets(stack, random_answers(stack))
    for _, uid, _, _, item in stored_masks(dataset):
        (header,) = [h for h in stack.headers if h.SOPInstanceUID == uid]
        found = item.PlanePositionSequence[0].ImagePositionPatient
        assert [float(v) for v in found] == [float(v) for v in header.ImagePositionPatient]


@pytest.mark.parametrize(
    ("places", "thickness", "expected"),
    [
        ([0.0, 4.0, 6.5], None, 2.5),
        ([0.0], None, 0.8),
        ([0.0, 4.0], 3.25, 3.25),
        ([0.0, 4.0], 0, 4.0),
    ],
)
def test_a_thickness_is_always_given(
    places: list[float], thickness: float | None, expected: float, tmp_path: Path
) -> None:
    extra = {} if thickness is None else {"SliceThickness": thickness}
    write_series(tmp_path / "in", [(0, 0, at) for at in places], **extra)
    stack = open_series(tmp_path / "in")
    (dataset,) = seg_datasets(stack, random_answers(stack))
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(expected)


def test_geometry_of_headers_agrees_with_the_stack(tmp_path: Path) -> None:
    axes = rotation([0.3, -0.2, 1.1])
    positions = [axes[:, 2] * 3.0 * at for at in range(3)]
    path = write_enhanced(
        tmp_path / "e.dcm", positions, orientation=[*axes[:, 0], *axes[:, 1]], spacing=(0.7, 1.3)
    )
    for stack in (open_dicom(path), bundled("CT_small.dcm"), bundled("MR_small.dcm")):
        for index in range(len(stack)):
            file, frame = stack.where(index)
            geometry = frame_geometry(stack.headers[file], frame)
            placement = stack.read(index).placement
            assert geometry is not None
            assert placement is not None
            assert placement.affine_mm is not None
            assert geometry.affine_mm[:, [0, 1, 3]] == pytest.approx(
                placement.affine_mm[:, [0, 1, 3]]
            )


# --- real files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",  # CT with a place in the patient
        "MR_small.dcm",
        "693_J2KI.dcm",  # CT without a frame of reference, though the standard requires one
        "JPEG2000.dcm",  # nuclear medicine: a frame of reference and no position
        "examples_jpeg2k.dcm",  # ultrasound, 640 x 480
        "examples_palette.dcm",
        "examples_rgb_color.dcm",
        "SC_rgb_rle.dcm",  # secondary capture
        "SC_rgb_jpeg.dcm",  # no modality
        "ExplVR_BigEnd.dcm",  # no patient ID
        "image_dfl.dcm",
    ],
)
@pytest.mark.parametrize("fractional", [False, True])
def test_single_images_of_all_kinds(name: str, fractional: bool, tmp_path: Path) -> None:
    stack = bundled(name)
    answers = random_answers(stack, ["tumor", "tümör 肿瘤", "banana"])
    answers[0][1] = answer(stack, 0, empty(stack, 0), "tümör 肿瘤")
    (path,) = write_seg(tmp_path / "out.dcm", stack, answers, fractional=fractional)
    assert path == tmp_path / "out.dcm"
    loaded = segread(path)
    header = stack.headers[0]
    assert loaded.SegmentationType == ("FRACTIONAL" if fractional else "BINARY")
    pixels = loaded.get_pixels_by_source_instance(
        [header.SOPInstanceUID], ignore_spatial_locations=True
    )
    for at, asked in enumerate(answers[0]):
        if fractional:
            assert np.abs(pixels[0, :, :, at] - asked.probability).max() <= 0.501 / 255
        else:
            assert np.array_equal(pixels[0, :, :, at] > 0, asked.mask)
    assert loaded.StudyInstanceUID == header.StudyInstanceUID
    assert str(loaded.PatientName) == str(header.get("PatientName", ""))
    assert loaded.PatientID == header.get("PatientID", "")
    assert [d.segment_label for d in loaded.SegmentSequence] == ["tumor", "tümör 肿瘤", "banana"]
    (reference,) = loaded.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == header.SeriesInstanceUID
    (instance,) = reference.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == header.SOPClassUID
    placed = frame_geometry(header, 0) is not None
    assert ("FrameOfReferenceUID" in loaded) == placed
    assert ("PatientOrientation" in loaded) == (not placed)
    shared = loaded.SharedFunctionalGroupsSequence[0]
    assert ("PixelMeasuresSequence" in shared) == placed
    if placed:
        measures = shared.PixelMeasuresSequence[0]
        assert list(measures.PixelSpacing) == list(header.PixelSpacing)
        assert measures.SliceThickness == header.SliceThickness


def test_a_cine_gets_one_instance_per_frame(tmp_path: Path) -> None:
    stack = bundled("examples_ybr_color.dcm")
    assert len(stack) == 30
    chosen = [4, 0, 29]
    answers = {
        index: [answer(stack, index, block(stack, index, slice(index, index + 9), slice(3, 40)))]
        for index in chosen
    }
    paths = write_seg(tmp_path / "cine", stack, answers)
    assert [path.name for path in paths] == ["seg-0001.dcm", "seg-0002.dcm", "seg-0003.dcm"]
    header = stack.headers[0]
    loaded = [segread(path) for path in paths]
    assert len({one.SOPInstanceUID for one in loaded}) == 3
    assert len({one.SeriesInstanceUID for one in loaded}) == 1
    assert [one.InstanceNumber for one in loaded] == [1, 2, 3]
    for one, index in zip(loaded, sorted(chosen), strict=True):
        pixels = one.get_pixels_by_source_frame(
            header.SOPInstanceUID, [index + 1], ignore_spatial_locations=True
        )
        assert np.array_equal(pixels[0, :, :, 0] > 0, answers[index][0].mask)
        (source,) = one.SourceImageSequence
        assert source.ReferencedFrameNumber == index + 1
        assert source.ReferencedSOPClassUID == header.SOPClassUID
        (frame,) = one.PerFrameFunctionalGroupsSequence
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedFrameNumber == index + 1
        assert item.ReferencedSOPClassUID == header.SOPClassUID


def test_grouping_takes_time_as_there_are_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = [(0.0, 0.0, 2.0 * n) for n in range(40)]
    stack = open_dicom(write_enhanced(tmp_path / "e.dcm", positions))
    visited: list[int] = []
    items = pydicom.sequence.Sequence.__iter__

    def counting(self: Any) -> Any:
        visited.append(len(self))
        return items(self)

    monkeypatch.setattr(pydicom.sequence.Sequence, "__iter__", counting)
    (group,) = group_frames(stack)
    assert group.indices == tuple(range(40))
    assert visited.count(40) < 5, "the places of all frames are gone through for every frame"


def test_a_ratio_that_is_no_number_does_not_keep_a_seg_from_being_written(tmp_path: Path) -> None:
    header = base((16, 20), 1, LossyImageCompression="01")
    path = save(header, tmp_path / "a.dcm")
    content = path.read_bytes()
    ratio = b"\x28\x00\x12\x21DS\x04\x009:25"  # (0028,2112)
    after = content.index(b"\x28\x00\x10\x21CS") + 10
    path.write_bytes(content[:after] + ratio + content[after:])
    stack = open_dicom(path)
    mask = block(stack, 0, slice(2, 5), slice(3, 9))
    (seg,) = write_seg(tmp_path / "s.dcm", stack, {0: [answer(stack, 0, mask)]})
    made = pydicom.dcmread(seg)
    assert made.LossyImageCompression == "01"
    assert "LossyImageCompressionRatio" not in made


def test_frames_of_an_enhanced_file_share_an_instance(tmp_path: Path) -> None:
    positions = [(0.0, 0.0, 4.0), (0.0, 0.0, 2.0), (0.0, 0.0, 0.0), (0.0, 0.0, 6.0)]
    stack = open_dicom(write_enhanced(tmp_path / "e.dcm", positions))
    answers = random_answers(stack)
    del answers[2]
    (dataset,) = seg_datasets(stack, answers)
    loaded = read_back(dataset, tmp_path)
    uid = stack.headers[0].SOPInstanceUID
    pixels = loaded.get_pixels_by_source_frame(uid, [1, 2, 4])
    for row, index in enumerate((0, 1, 3)):
        for at in (0, 1):
            assert np.array_equal(pixels[row, :, :, at] > 0, answers[index][at].mask)
    (source,) = loaded.SourceImageSequence
    assert list(source.ReferencedFrameNumber) == [1, 2, 4]
    for segment, _, frame, stored, item in stored_masks(dataset):
        asked = answers[frame - 1][segment - 1]
        assert asked.centroid_mm is not None
        assert viewer_centroid(dataset, stored, item) == pytest.approx(np.array(asked.centroid_mm))
    assert loaded.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2


# --- what goes into one instance --------------------------------------------------------------


def grouped(paths: list[Path]) -> list[tuple[int, ...]]:
    return [group.indices for group in group_frames(open_series(paths))]


def test_other_orientations_and_repeated_positions_are_other_instances(tmp_path: Path) -> None:
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    three = [(0.0, 0.0, 3.0 * at) for at in range(3)]
    assert grouped(write_series(tmp_path / "a", three)) == [(0, 1, 2)]
    mixed = write_series(tmp_path / "b", three, orientation=[AXIAL, coronal, AXIAL])
    assert grouped(mixed) == [(0, 2), (1,)]
    # Two phases at each of three positions; the stack has them position by position.
    beating = write_series(tmp_path / "c", [*three, *three])
    assert grouped(beating) == [(0, 2, 4), (1, 3, 5)]
    # Scanners round cosines slice by slice.
    shaken = [tuple(np.array(AXIAL) + 1e-5 * at) for at in range(3)]
    assert grouped(write_series(tmp_path / "d", three, orientation=shaken)) == [(0, 1, 2)]


def test_phases_make_instances_with_their_own_masks(tmp_path: Path) -> None:
    places = [(0.0, 0.0, 3.0 * at) for at in range(3)]
    write_series(tmp_path / "in", [*places, *places])
    stack = open_series(tmp_path / "in")
    answers = random_answers(stack)
    datasets = list(seg_datasets(stack, answers))
    assert len(datasets) == 2
    uids = [str(header.SOPInstanceUID) for header in stack.headers]
    seen = []
    for dataset in datasets:
        for segment, uid, _, frame, _ in stored_masks(dataset):
            seen.append(uids.index(uid))
            assert np.array_equal(frame, answers[uids.index(uid)][segment - 1].mask)
    assert sorted(seen) == sorted([*range(6), *range(6)])


def test_slightly_different_cosines_are_stored_as_those_of_the_first(tmp_path: Path) -> None:
    shaken = [tuple(np.array(AXIAL) + 1e-6 * at) for at in range(3)]
    write_series(tmp_path / "in", [(0, 0, 2 * at) for at in range(3)], orientation=shaken)
    stack = open_series(tmp_path / "in")
    (dataset,) = seg_datasets(stack, random_answers(stack))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert [float(v) for v in found] == pytest.approx(AXIAL, abs=1e-9)


# --- empty segments ---------------------------------------------------------------------------


@pytest.mark.parametrize("fractional", [False, True])
def test_what_was_not_found_is_described_and_has_frames(fractional: bool, tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, at) for at in range(3)])
    stack = open_series(tmp_path / "in")
    nothing = empty(stack, 0)
    answers = {
        index: [answer(stack, index, nothing, "polyp"), answer(stack, index, ~nothing, "lung")]
        for index in range(3)
    }
    (dataset,) = seg_datasets(stack, answers, fractional=fractional)
    assert [one.SegmentLabel for one in dataset.SegmentSequence] == ["polyp", "lung"]
    frames = [(segment, bool(frame.any())) for segment, *_, frame, _ in stored_masks(dataset)]
    assert frames == [(1, False)] * 3 + [(2, True)] * 3
    assert "Found in 0 of 3 images" in dataset.SegmentSequence[0].SegmentDescription
    assert "Found in 3 of 3 images" in dataset.SegmentSequence[1].SegmentDescription
    # Nothing at all.
    alone = {index: given_[:1] for index, given_ in answers.items()}
    (dataset,) = seg_datasets(stack, alone, fractional=fractional)
    assert dataset.NumberOfFrames == 3
    assert not dataset.pixel_array.any()
    assert len(dataset.SegmentSequence) == 1


def test_empty_frames_are_left_out_where_every_segment_is_somewhere(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, at) for at in range(4)])
    stack = open_series(tmp_path / "in")
    answers = {i: [answer(stack, i, empty(stack, i))] for i in range(4)}
    answers[2] = [answer(stack, 2, block(stack, 2, slice(1, 2), slice(1, 2)))]
    (dataset,) = seg_datasets(stack, answers)
    assert dataset.NumberOfFrames == 1
    (reference,) = dataset.ReferencedSeriesSequence
    assert len(reference.ReferencedInstanceSequence) == 4  # all were looked at


def test_probabilities_too_small_to_store_do_not_leave_a_segment_without_frames(
    tmp_path: Path,
) -> None:
    write_series(tmp_path / "in", [(0, 0, 0)])
    stack = open_series(tmp_path / "in")
    nothing = empty(stack, 0)
    faint = np.full(nothing.shape, 0.001, np.float32)
    answers = {
        0: [answer(stack, 0, ~nothing, "lung"), answer(stack, 0, nothing, probability=faint)]
    }
    (dataset,) = seg_datasets(stack, answers, fractional=True)
    assert [segment for segment, *_ in stored_masks(dataset)] == [1, 2]


# --- words ------------------------------------------------------------------------------------


def test_segments_say_what_they_are_and_who_made_them(tmp_path: Path) -> None:
    stack = bundled("CT_small.dcm")
    full = ~empty(stack, 0)
    answers = {
        0: [
            answer(stack, 0, full, "breast mass", extra={"concept": "tumor"}),
            answer(stack, 0, full, "retinal vessel"),
            answer(stack, 0, full, "Synapses", extra={"concept": "synapse"}),
            answer(stack, 0, full, "surgical\\instrument\n" + "x" * 80, extra={"concept": None}),
        ]
    }
    model_identity = "ab" * 32
    (dataset,) = seg_datasets(stack, answers, model_identity=model_identity)
    loaded = read_back(dataset, tmp_path)
    mass, vessel, synapse, unknown = loaded.SegmentSequence
    assert mass.segmented_property_category.value == "49755003"
    assert mass.segmented_property_type.value == "4147007"
    assert [region.meaning for region in mass.anatomic_regions] == ["Breast"]
    assert vessel.segmented_property_type.value == "59820001"
    assert [region.value for region in vessel.anatomic_regions] == ["5665001"]
    assert synapse.segmented_property_type.scheme_designator == "99TEXTSAM"
    assert unknown.segmented_property_type.scheme_designator == "99TEXTSAM"
    assert unknown.segment_label.startswith("surgical instrument x")
    assert len(unknown.segment_label) == 64
    (scheme,) = loaded.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99TEXTSAM"
    for number_, described in enumerate(loaded.SegmentSequence, start=1):
        assert described.segment_number == number_
        assert described.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = described.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "textsam lite-generalist"
        assert algorithm.AlgorithmVersion == textsam.__version__
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert model_identity in algorithm.AlgorithmParameters
    uids = [described.tracking_uid for described in loaded.SegmentSequence]
    assert len(set(uids)) == 4
    assert all(UID(uid).is_valid for uid in uids)
    assert loaded.ManufacturerModelName == "textsam"
    assert loaded.SoftwareVersions == textsam.__version__
    assert loaded.DeviceSerialNumber == model_identity
    assert loaded.SeriesDescription.startswith("TextSAM: breast mass, retinal vessel")
    assert len(loaded.SeriesDescription) <= 64
    assert loaded.SeriesNumber == 9000 + int(stack.headers[0].SeriesNumber)


def test_no_private_scheme_is_declared_where_none_is_used() -> None:
    stack = bundled("CT_small.dcm")
    (dataset,) = seg_datasets(stack, random_answers(stack), series_description="Mine")
    assert "CodingSchemeIdentificationSequence" not in dataset
    assert dataset.SeriesDescription == "Mine"
    assert "SpecificCharacterSet" in stack.headers[0]
    assert dataset.DeviceSerialNumber == "unknown"


def test_names_survive_from_any_character_set(tmp_path: Path) -> None:
    header = base((16, 20), 1, SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг")
    stack = open_dicom(save(header, tmp_path / "a.dcm"))
    write_seg(tmp_path / "seg.dcm", stack, random_answers(stack, ["肿瘤"]))
    loaded = pydicom.dcmread(tmp_path / "seg.dcm")
    assert loaded.SpecificCharacterSet == "ISO_IR 192"
    assert str(loaded.PatientName) == "Люкceмбypг"
    assert loaded.SegmentSequence[0].SegmentLabel == "肿瘤"
    plain = open_dicom(save(base((16, 20), 1), tmp_path / "b.dcm"))
    (dataset,) = seg_datasets(plain, random_answers(plain))
    assert "SpecificCharacterSet" not in dataset


def test_odd_patients_are_carried_as_they_are(tmp_path: Path) -> None:
    header = base((16, 20), 1, PatientName="Cher", PatientComments="kept", StudyDescription="S")
    header.add_new("PatientSex", "CS", "M")
    header.PatientBirthDate = "19460520"
    header.StudyDate, header.StudyTime = "20240229", "101112.5"
    stack = open_dicom(save(header, tmp_path / "a.dcm"))
    (dataset,) = seg_datasets(stack, random_answers(stack))
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientSex",
        "PatientBirthDate",
        "PatientComments",
        "StudyDescription",
        "StudyDate",
        "StudyTime",
    ):
        assert dataset[keyword].value == header[keyword].value, keyword
    assert dataset.StudyID == ""
    dataset.PatientName = "Changed"
    assert stack.headers[0].PatientName == "Cher"


def test_headers_are_left_as_they_were() -> None:
    stack = bundled("examples_ybr_color.dcm")
    before = stack.headers[0].to_json()
    list(seg_datasets(stack, {3: [answer(stack, 3, ~empty(stack, 3))]}))
    assert stack.headers[0].to_json() == before


# --- identity ---------------------------------------------------------------------------------


def test_the_same_question_has_the_same_uids_and_another_has_others(tmp_path: Path) -> None:
    write_series(tmp_path, [(0, 0, at) for at in range(3)])
    stack = open_series(tmp_path)
    prompts = ["tumor", "lung"]
    identity = seg_identity(stack, prompts, "f" * 64)
    for seed in (1, 2):  # whatever the masks are
        (dataset,) = seg_datasets(stack, random_answers(stack, seed=seed), model_identity="f" * 64)
        assert dataset.SeriesInstanceUID == identity.series_uid
        assert (dataset.SOPInstanceUID,) == identity.instance_uids
        assert dataset.file_meta.MediaStorageSOPInstanceUID == identity.instance_uids[0]
        tracked = [one.TrackingUID for one in dataset.SegmentSequence]
        assert tuple(tracked) == identity.tracking_uids
    others = [
        seg_identity(stack, prompts, "e" * 64),
        seg_identity(stack, ["lung", "tumor"], "f" * 64),
        seg_identity(stack, ["tumor"], "f" * 64),
        seg_identity(stack, prompts, "f" * 64, fractional=True),
        seg_identity(stack, prompts, "f" * 64, settings="refine=0"),
        seg_identity(stack, prompts, "f" * 64, indices=[0, 1]),
    ]
    uids = [identity, *others]
    assert len({one.series_uid for one in uids}) == len(uids)
    assert len({one.instance_uids for one in uids}) == len(uids)
    assert seg_identity(stack, prompts, "f" * 64, indices=[2, 1, 0]) == identity
    for one in uids:
        for uid in (one.series_uid, *one.instance_uids, *one.tracking_uids):
            assert UID(uid).is_valid
            assert uid.startswith("2.25.")


def test_the_version_is_part_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = bundled("CT_small.dcm")
    before = seg_identity(stack, ["tumor"])
    monkeypatch.setattr(textsam, "__version__", "9.9.9")
    assert seg_identity(stack, ["tumor"]) != before


def test_two_runs_write_the_same_but_for_the_time() -> None:
    stack = bundled("examples_ybr_color.dcm")
    answers = {5: [answer(stack, 5, block(stack, 5, slice(9), slice(9)))]}
    (first,), (second,) = (seg_datasets(stack, answers) for _ in range(2))
    for dataset in (first, second):
        for keyword in (
            "InstanceCreationDate",
            "InstanceCreationTime",
            "ContentDate",
            "ContentTime",
            "ContributingEquipmentSequence",
        ):
            del dataset[keyword]
    assert first == second


# --- refusals ---------------------------------------------------------------------------------


def test_answers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [(0, 0, 5 * at) for at in range(2)])
    stack = open_series(tmp_path / "in")
    full = ~empty(stack, 0)
    good: Answers = {index: [answer(stack, index, full)] for index in range(2)}
    with pytest.raises(ConfigError, match="no image is chosen"):
        list(seg_datasets(stack, {}))
    with pytest.raises(ConfigError, match=r"images 0 to 1, answers name image 2"):
        list(seg_datasets(stack, {**good, 2: good[0]}))
    with pytest.raises(ConfigError, match="answers name image -1"):
        list(seg_datasets(stack, {**good, -1: good[0]}))
    with pytest.raises(PromptError, match=r"image 1 was asked 'lung', others 'tumor'"):
        list(seg_datasets(stack, {0: good[0], 1: [answer(stack, 1, full, "lung")]}))
    with pytest.raises(PromptError, match="image 0 has no answer"):
        list(seg_datasets(stack, {0: []}))
    with pytest.raises(ImageError, match="the answer for image 0 lies 5 mm from"):
        list(seg_datasets(stack, {0: good[1], 1: good[0]}))
    other = bundled("CT_small.dcm")
    with pytest.raises(ImageError, match="16 rows and 20 columns, its answer 128 and 128"):
        list(seg_datasets(stack, {0: [answer(other, 0, ~empty(other, 0))]}))


def test_a_file_without_uids_cannot_be_referred_to(tmp_path: Path) -> None:
    stack = bundled("SC_rgb_jls_lossy_line.dcm")
    with pytest.raises(ImageError, match="lacks SeriesInstanceUID, StudyInstanceUID"):
        list(seg_datasets(stack, {0: [answer(stack, 0, ~empty(stack, 0))]}))
    with pytest.raises(ImageError, match="another format"):
        seg_identity(stack, ["tumor"])


def test_other_images_than_dicom_cannot_be_referred_to(tmp_path: Path) -> None:
    PIL.Image.new("L", (9, 9)).save(tmp_path / "a.png")
    stack: Any = open_stack(tmp_path / "a.png")
    with pytest.raises(ImageError, match="this is none; write its masks as NIfTI, COCO or PNG"):
        write_seg(tmp_path / "seg.dcm", stack, {0: []})


def test_one_file_for_several_instances_is_refused_before_any_is_written(tmp_path: Path) -> None:
    stack = bundled("examples_ybr_color.dcm")
    answers = {index: [answer(stack, index, empty(stack, index))] for index in (0, 1)}
    with pytest.raises(ConfigError, match=r"make 2 SEG instances, .* give a folder"):
        write_seg(tmp_path / "out.dcm", stack, answers)
    assert list(tmp_path.iterdir()) == []
    (path,) = write_seg(tmp_path / "one", stack, {0: answers[0]})
    assert path == tmp_path / "one" / "seg-0001.dcm"


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    stack = bundled("CT_small.dcm")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(TextSAMError, match=r"seg-0001\.dcm: the file cannot be written"):
        write_seg(tmp_path / "file", stack, random_answers(stack))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = bundled("CT_small.dcm")
    found = seg_module.find_spec
    monkeypatch.setattr(
        seg_module, "find_spec", lambda name: None if name == "highdicom" else found(name)
    )
    with pytest.raises(TextSAMError, match=r"needs highdicom.*textsam\[medical\]"):
        list(seg_datasets(stack, random_answers(stack)))


def test_what_highdicom_refuses_is_our_error_without_patient_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = bundled("CT_small.dcm")

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Doe^Jane is not valid")

    monkeypatch.setattr("highdicom.seg.Segmentation.__init__", refuse)
    with pytest.raises(ImageError, match=r"no DICOM segmentation.*RuntimeError") as caught:
        list(seg_datasets(stack, random_answers(stack)))
    assert "Doe" not in str(caught.value)


def test_answers_are_looked_up_once_and_instance_by_instance() -> None:
    stack = bundled("examples_ybr_color.dcm")
    asked: list[int] = []

    class Lazy(Mapping[int, Sequence[Segmentation]]):
        def __getitem__(self, index: int) -> Sequence[Segmentation]:
            asked.append(index)
            return [answer(stack, index, empty(stack, index))]

        def __iter__(self) -> Iterator[int]:
            return iter((0, 1, 2))

        def __len__(self) -> int:
            return 3

    made = seg_datasets(stack, Lazy())
    next(made)
    assert asked == [0]
    assert len(list(made)) == 2
    assert asked == [0, 1, 2]


def test_functional_groups_that_say_a_part_are_completed_by_the_header(tmp_path: Path) -> None:
    """As they are where the image is read: its SEG would have no place, the image has one."""
    measured, shared = pydicom.Dataset(), pydicom.Dataset()
    measured.PixelSpacing = [0.8, 0.5]
    shared.PixelMeasuresSequence = [measured]
    write_series(tmp_path, [(1, 2, 3)], SharedFunctionalGroupsSequence=[shared])
    stack = open_series(tmp_path)
    placement = stack.read(0).placement
    assert placement is not None
    assert placement.affine_mm is not None
    geometry = frame_geometry(stack.headers[0], 0)
    assert geometry is not None
    assert geometry.affine_mm == pytest.approx(placement.affine_mm)


# --- other programs ---------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> list[Path]:
    write_series(tmp_path / "in", [(0, 0, 2 * at) for at in range(3)], PatientSex="O")
    series = open_series(tmp_path / "in")
    paths = write_seg(tmp_path / "series.dcm", series, random_answers(series))
    photo = bundled("examples_rgb_color.dcm")
    paths += write_seg(tmp_path / "p.dcm", photo, random_answers(photo), fractional=True)
    cine = bundled("examples_ybr_color.dcm")
    paths += write_seg(tmp_path / "cine", cine, {7: [answer(cine, 7, empty(cine, 7), "banana")]})
    return paths


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk's dcmdump is not installed")
def test_dcmtk_reads_the_files(written: list[Path]) -> None:
    for path in written:
        done = subprocess.run(
            ["dcmdump", "--stop-on-error", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "SegmentationStorage" in done.stdout
        assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_a_validator_finds_no_error(written: list[Path]) -> None:
    for path in written:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Segmentation" in done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
