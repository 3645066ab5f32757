"""pydicom's own files, made by many devices and libraries, against values worked out otherwise."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import BUNDLED, bundled
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from textsam.errors import ImageError
from textsam.io.dicom import NoPictureError, open_dicom

FILES = sorted(
    path
    for path in BUNDLED.rglob("*")
    # The fifty headers of TINY_ALPHA are alike.
    if path.is_file() and ("TINY_ALPHA" not in path.parts or path.name.endswith("00"))
)

# What each file that is no usable picture is refused for.
REFUSED = {
    "ExplVR_BigEndNoMeta.dcm": "not a DICOM file",
    "ExplVR_LitEndNoMeta.dcm": "not a DICOM file",
    "no_meta.dcm": "not a DICOM file",
    "rtstruct.dcm": "not a DICOM file",
    "crayons.icc": "not a DICOM file",
    "README.txt": "not a DICOM file",
    "rtplan.dump": "not a DICOM file",
    "rtstruct.dump": "not a DICOM file",
    "test1.json": "not a DICOM file",
    "test_PN.json": "not a DICOM file",
    "zipMR.gz": "not a DICOM file",
    "meta_missing_tsyntax.dcm": "no Transfer Syntax UID",
    "JPEG-lossy.dcm": "misplaced marker segment",
    "JPEG2000-embedded-sequence-delimiter.dcm": "the compressed frame is 1024 rows x 3722445056",
    "MR_truncated.dcm": "pixel data is truncated",
    "SC_rgb_small_odd.dcm": "3 rows and 3 columns",
    "SC_rgb_small_odd_big_endian.dcm": "3 rows and 3 columns",
    "SC_rgb_small_odd_jpeg.dcm": "3 rows and 3 columns",
    "badVR.dcm": "NumberOfFrames is '1A'",
    "nested_priv_SQ.dcm": "pixel data and no Rows",
}
NO_PICTURE = {
    "UN_sequence.dcm": "CT Image Storage",
    "empty_charset_LEI.dcm": "an object of unknown kind",
    "no_meta_group_length.dcm": "RT Image Storage",
    "priv_SQ.dcm": "MR Image Storage",
    "reportsi.dcm": "Basic Text SR Storage",
    "reportsi_with_empty_number_tags.dcm": "Basic Text SR Storage",
    "rtplan.dcm": "RT Plan Storage",
    "rtplan_truncated.dcm": "RT Plan Storage",
    "test-SR.dcm": "Comprehensive SR Storage",
    "waveform_ecg.dcm": "12-lead ECG Waveform Storage",
    "liver_1frame.dcm": "segmentation object",
    "liver_expb_1frame.dcm": "segmentation object",
    "IM000000": "CT Image Storage",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_bundled_file_is_read_or_refused_for_its_reason(path: Path) -> None:
    expected = REFUSED.get(path.name) or NO_PICTURE.get(path.name)
    if path.name.startswith("DICOMDIR"):
        expected = "DICOMDIR"
    if expected is None:
        stack = open_dicom(path)
        images = list(stack)
        assert len(images) == len(stack) == int(stack.headers[0].get("NumberOfFrames", 1))
        assert all(image.pixels.max() > 0 for image in images)
        return
    with pytest.raises(ImageError, match=expected) as caught:
        open_dicom(path).read(0)
    assert str(path) in str(caught.value)
    is_sound = path.name in NO_PICTURE or path.name.startswith("DICOMDIR")
    assert isinstance(caught.value, NoPictureError) == is_sound


def quiet_dataset(name: str) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(bundled(name))


def quiet_pixels(name: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(bundled(name)).pixel_array


WINDOWED = [
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
    "examples_overlay.dcm",
    "dicomdirtests/77654033/CT2/17106",
    "dicomdirtests/98892001/CT2N/6924",
    "dicomdirtests/98892003/MR700/4528",
    "dicomdirtests/77654033/CR3/6278",
]


@pytest.mark.parametrize("name", WINDOWED)
def test_window_is_applied_as_by_pydicom(name: str) -> None:
    dataset = quiet_dataset(name)
    assert "WindowCenter" in dataset
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        # The range that pydicom maps a window to: that of all values there could be.
        stored = dataset.BitsStored
        low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1)
        if dataset.PixelRepresentation == 0:
            low, high = 0, 2**stored - 1
        low, high = apply_modality_lut(np.array([low, high], dtype=np.int64), dataset)
    expected = (shown - low) / (high - low) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        expected[dataset.pixel_array == padding] = 0
    image = open_dicom(bundled(name)).read(0)
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels[..., 0], expected, atol=2e-3)
    assert (image.pixels == image.pixels[..., :1]).all()


def test_monochrome1_is_among_the_windowed() -> None:
    kinds = {quiet_dataset(name).PhotometricInterpretation for name in WINDOWED}
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}


def test_ct_without_window_shows_all_values_and_padding_black() -> None:
    # Padding is -2000, which would otherwise take most of the range.
    dataset = quiet_dataset("CT_small.dcm")
    stored = dataset.pixel_array
    assert "WindowCenter" not in dataset
    assert dataset.PixelPaddingValue == -2000
    inside = stored[stored != -2000]
    expected = np.clip((stored - inside.min()) / (inside.max() - inside.min()) * 255, 0, 255)
    image = open_dicom(bundled("CT_small.dcm")).read(0)
    np.testing.assert_allclose(image.pixels[..., 0], expected, atol=1e-3)


COLOUR_BARS = [
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
]
# Ten bars of ten rows, from the description of the files.
BARS = [
    (255, 0, 0),
    (255, 128, 128),
    (0, 255, 0),
    (128, 255, 128),
    (0, 0, 255),
    (128, 128, 255),
    (0, 0, 0),
    (64, 64, 64),
    (192, 192, 192),
    (255, 255, 255),
]


@pytest.mark.parametrize("name", COLOUR_BARS)
def test_colours_are_red_green_and_blue_however_they_are_stored(name: str) -> None:
    pixels = open_dicom(bundled(name)).read(0).pixels
    # Lossy compression and chroma subsampling move values by a few.
    for number, colour in enumerate(BARS):
        np.testing.assert_allclose(pixels[10 * number + 5, 50].astype(float), colour, atol=5)


@pytest.mark.parametrize(
    "name",
    ["ExplVR_BigEnd.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm", "image_dfl.dcm"],
)
def test_eight_bits_are_shown_as_they_are(name: str) -> None:
    image = open_dicom(bundled(name)).read(0)
    expected = quiet_pixels(name)
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, np.atleast_3d(expected) * np.ones(3, np.uint8))


def test_frames_of_a_cine_are_those_of_the_whole() -> None:
    frames = quiet_pixels("examples_ybr_color.dcm")
    stack = open_dicom(bundled("examples_ybr_color.dcm"))
    assert len(stack) == len(frames) == 30
    for number in (29, 0, 13, 14):
        np.testing.assert_array_equal(stack.read(number).pixels, frames[number])
        assert stack.where(number) == (0, number)
        placement = stack.read(number).placement
        assert placement is not None
        assert placement.index == number
    assert (frames[0] != frames[29]).any()


def test_frames_of_uncompressed_and_run_length_files() -> None:
    for name in ("rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"):
        frames = quiet_pixels(name).astype(float)
        stack = open_dicom(bundled(name))
        for number in (0, 7, 14):
            low, high = frames[number].min(), frames[number].max()
            expected = (frames[number] - low) / (high - low) * 255
            np.testing.assert_allclose(stack.read(number).pixels[..., 2], expected, atol=1e-3)


def test_palette_is_applied_as_by_pydicom() -> None:
    dataset = quiet_dataset("examples_palette.dcm")
    assert "RedPaletteColorLookupTableData" in dataset
    expected = apply_color_lut(dataset.pixel_array, dataset)
    assert expected.dtype == np.uint16
    image = open_dicom(bundled("examples_palette.dcm")).read(0)
    np.testing.assert_allclose(image.pixels, expected / 65535 * 255, atol=1e-3)
    assert len(np.unique(image.pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_ultrasound_region_of_a_picture_that_was_cut_later_is_not_used(name: str) -> None:
    # Both were made smaller to be bundled, and kept the regions of the original.
    dataset = quiet_dataset(name)
    region = dataset.SequenceOfUltrasoundRegions[0]
    assert region.RegionLocationMaxY1 > dataset.Rows
    image = open_dicom(bundled(name)).read(0)
    assert image.region_px is None
    assert image.spacing_mm is None


def test_place_of_a_ct_slice_in_the_patient() -> None:
    image = open_dicom(bundled("CT_small.dcm")).read(0)
    # Image Position is the first pixel's centre; Pixel Spacing 0.661468, axial.
    assert image.placement is not None
    assert image.placement.to_patient_mm(0, 0) == pytest.approx(
        (-158.135803, -179.035797, -75.699997)
    )
    assert image.placement.to_patient_mm(100, 10) == pytest.approx(
        (-158.135803 + 66.1468, -179.035797 + 6.61468, -75.699997)
    )


def test_headers_lack_pixels_and_keep_the_rest() -> None:
    (header,) = open_dicom(bundled("CT_small.dcm")).headers
    assert "PixelData" not in header
    assert header.Rows == 128
    assert header.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
    assert str(header.PatientName) == "CompressedSamples^CT1"
