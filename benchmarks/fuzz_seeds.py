"""Small sound files of every format that is read, to be damaged by `fuzz_mutate`."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

# Larger ones would only make the same damage rarer.
_LARGEST_BYTES = 40_000


def seeds() -> dict[str, bytes]:
    """Name -> file; the name's first part, before the slash, is the format."""
    return {**_rasters(), **_tiffs(), **_nifti(), **_dicom()}


def _values(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(7)
    top = 200 if dtype in ("uint8", "int8") else 4000
    smooth = np.linspace(0, top, int(np.prod(shape))).reshape(shape)
    return (smooth + rng.integers(0, 50, shape)).astype(dtype)


def _saved(picture: PIL.Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=file_format, **options)
    return stream.getvalue()


def _deep_png(values: np.ndarray) -> bytes:
    """16-bit colour, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _rasters() -> dict[str, bytes]:
    grey = PIL.Image.fromarray(_values((24, 31)))
    colour = PIL.Image.fromarray(_values((24, 31, 3)))
    deep = PIL.Image.fromarray(_values((24, 31), "uint16"))
    alpha = PIL.Image.fromarray(_values((24, 31, 4)))
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    return {
        "png/grey": _saved(grey, "PNG"),
        "png/colour": _saved(colour, "PNG"),
        "png/alpha": _saved(alpha, "PNG"),
        "png/deep": _saved(deep, "PNG"),
        "png/deep-colour": _deep_png(_values((24, 31, 3), "uint16")),
        "png/palette": _saved(colour.quantize(16), "PNG", transparency=3),
        "png/one-bit": _saved(grey.convert("1"), "PNG"),
        "jpeg/grey": _saved(grey, "JPEG"),
        "jpeg/colour": _saved(colour, "JPEG", exif=turned),
        "jpeg/progressive": _saved(colour, "JPEG", progressive=True),
        "jpeg/cmyk": _saved(colour.convert("CMYK"), "JPEG"),
        "bmp/grey": _saved(grey, "BMP"),
        "bmp/colour": _saved(colour, "BMP"),
        "bmp/one-bit": _saved(grey.convert("1"), "BMP"),
    }


def _tiffs() -> dict[str, bytes]:
    import tifffile

    found: dict[str, bytes] = {}
    for name, dtype in (("grey", "uint8"), ("deep", "uint16"), ("float", "float32")):
        pages = [PIL.Image.fromarray(_values((20 + n, 24), dtype)) for n in range(3)]
        for packed in (None, "tiff_deflate", "tiff_lzw", "packbits"):
            options = {"save_all": True, "append_images": pages[1:], "compression": packed}
            found[f"tiff/{name}-{packed or 'plain'}"] = _saved(pages[0], "TIFF", **options)
    colour = PIL.Image.fromarray(_values((20, 24, 3)))
    found["tiff/jpeg"] = _saved(colour, "TIFF", compression="jpeg")
    found["tiff/fax"] = _saved(colour.convert("1"), "TIFF", compression="group4")
    for name, options in {
        "big": {"bigtiff": True},
        "big-endian": {"byteorder": ">"},
        "tiled": {"tile": (16, 16)},
    }.items():
        stream = io.BytesIO()
        values = _values((2, 33, 20, 3), "uint16" if name == "big-endian" else "uint8")
        tifffile.imwrite(stream, values, photometric="rgb", **options)  # type: ignore[arg-type]
        found[f"tiff/{name}"] = stream.getvalue()
    return found


def _nifti() -> dict[str, bytes]:
    import nibabel

    affine = np.array([[0, -2.0, 0, 5], [3.0, 0, 0.1, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    found: dict[str, bytes] = {}
    for dtype in ("uint8", "int16", "float32", "float64"):
        for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            header = kind.header_class(endianness=">" if dtype == "int16" else "<")
            header.set_data_dtype(dtype)
            image = kind(_values((9, 10, 11), dtype), affine, header)
            data = image.to_bytes()
            version = 1 if kind is nibabel.Nifti1Image else 2
            found[f"nifti/{dtype}-{version}"] = data
            found[f"nifti-gz/{dtype}-{version}"] = gzip.compress(data, 6, mtime=0)
    packed = _values((9, 10, 11, 3)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    found["nifti/colour"] = nibabel.Nifti1Image(packed, affine).to_bytes()
    return found


def _dicom() -> dict[str, bytes]:
    """pydicom's own small files, of every transfer syntax, and a few made here."""
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    found = {
        f"dicom/{path.stem}": path.read_bytes()
        for path in sorted(folder.glob("*.dcm"))
        if path.stat().st_size <= _LARGEST_BYTES
    }
    for syntax in (
        pydicom.uid.ExplicitVRLittleEndian,
        pydicom.uid.ImplicitVRLittleEndian,
        pydicom.uid.DeflatedExplicitVRLittleEndian,
        pydicom.uid.RLELossless,
    ):
        for frames, channels in ((1, 1), (3, 1), (2, 3)):
            name = f"{syntax.keyword}-{frames}-{channels}"
            found[f"dicom-made/{name}"] = _dicom_file(syntax, frames, channels)
    return found


def _dicom_file(syntax: Any, frames: int, channels: int) -> bytes:
    import pydicom

    data = pydicom.Dataset()
    data.file_meta = pydicom.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.SamplesPerPixel = channels
    data.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns, data.NumberOfFrames = 16, 20, frames
    bits = 8 if channels == 3 else 16
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = 0
    data.PixelSpacing = [0.5, 0.25]
    data.WindowCenter, data.WindowWidth = [2000, 1000], [4000, 500]
    data.RescaleSlope, data.RescaleIntercept = 1, -100
    region = pydicom.Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 2, 2
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 17, 13
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    data.SequenceOfUltrasoundRegions = [region]
    data.PixelData = _values((frames, 16, 20, channels), f"uint{bits}").tobytes()
    if syntax == pydicom.uid.RLELossless:
        data.compress(syntax, generate_instance_uid=False)
    else:
        data.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()
