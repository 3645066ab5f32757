"""Damage files: blindly, and where their headers say how much there is and where."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

_EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000)
_EXTREMES += (0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_MOST_BYTES = 1 << 20


def mutated(
    files: Mapping[str, bytes], seed: int, number: int, kinds: Sequence[str] = ()
) -> tuple[str, bytes]:
    """Damaged file `number` of a run: the name of the file it was made of, and its bytes.

    The same arguments give the same file. `kinds` are the formats to take, all where it is empty.
    """
    rng = random.Random(f"{seed}/{number}")
    names = sorted(files)
    formats = sorted(kinds or {name.split("/")[0] for name in names})
    kind = rng.choice(formats)
    name = rng.choice([name for name in names if name.split("/")[0] == kind])
    data = bytearray(files[name])
    if kind == "nifti-gz" and rng.random() < 0.8:
        data = _repacked(data, files, rng)
    else:
        _damage(data, kind, files, rng)
    return name, bytes(data[:_MOST_BYTES]) or b"\0"


def _damage(data: bytearray, kind: str, files: Mapping[str, bytes], rng: random.Random) -> None:
    aware = _AWARE.get(kind.split("-", maxsplit=1)[0])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if aware is not None and rng.random() < 0.6:
            aware(data, rng)
        elif rng.random() < 0.05:
            _splice(data, files, rng)
        else:
            rng.choice(_BLIND)(data, rng)
        if not data:
            data += b"\0"
    if kind == "png" and rng.random() < 0.7:
        _right_checksums(data)


# --- blind ----------------------------------------------------------------------------------------


def _at(data: bytearray, rng: random.Random) -> int:
    # Headers are where most decisions are made, and they come first.
    end = len(data) if rng.random() < 0.5 else min(len(data), 512)
    return rng.randrange(end)


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[_at(data, rng)] ^= 1 << rng.randrange(8)


def _set_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 16))):
        data[_at(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_number(data: bytearray, rng: random.Random) -> None:
    _put(data, _at(data, rng), rng.choice((1, 2, 4, 8)), rng)


def _put(data: bytearray, at: int, width: int, rng: random.Random, order: str = "") -> None:
    value = rng.choice((*_EXTREMES, rng.getrandbits(16), len(data), at)) % (1 << (8 * width))
    chosen = order or rng.choice(("little", "big"))
    data[at : at + width] = value.to_bytes(width, "big" if chosen == "big" else "little")


def _block(data: bytearray, rng: random.Random) -> tuple[int, int]:
    at = _at(data, rng)
    return at, min(len(data), at + rng.choice((1, 4, 12, 64, 512, 4096)))


def _remove(data: bytearray, rng: random.Random) -> None:
    at, end = _block(data, rng)
    del data[at:end]


def _duplicate(data: bytearray, rng: random.Random) -> None:
    at, end = _block(data, rng)
    data[end:end] = data[at:end] * rng.choice((1, 2, 10, 100))


def _copy(data: bytearray, rng: random.Random) -> None:
    at, end = _block(data, rng)
    to = _at(data, rng)
    data[to : to + end - at] = data[at:end]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_at(data, rng) :]


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice((1, 100, 5000))) if rng.random() < 0.5 else bytes(100_000)


_BLIND: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _set_number,
    _remove,
    _duplicate,
    _copy,
    _truncate,
    _append,
)


def _splice(data: bytearray, files: Mapping[str, bytes], rng: random.Random) -> None:
    other = files[rng.choice(sorted(files))]
    data[_at(data, rng) :] = other[rng.randrange(len(other)) :]


# --- where headers are ----------------------------------------------------------------------------


def _right_checksums(data: bytearray) -> None:
    """Make a PNG's checksums fit again, so that what was changed is looked at."""
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4


def _png(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.5:
        at, width = rng.choice(((16, 4), (20, 4), (24, 1), (25, 1), (26, 1), (27, 1), (28, 1)))
        _put(data, at, width, rng, "big")
        return
    kinds = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"IEND", b"eXIf", b"acTL", b"fcTL", b"iCCP")
    at = data.find(rng.choice(kinds))
    if at < 4:
        at = max(8, data.find(b"IDAT") - 4)
        content = rng.randbytes(rng.choice((0, 1, 8, 26)))
        data[at:at] = struct.pack(">I", len(content)) + rng.choice(kinds) + content + bytes(4)
    elif rng.random() < 0.5:
        _put(data, at - 4, 4, rng, "big")
    else:
        data[at : at + 4] = rng.choice(kinds)


def _jpeg(data: bytearray, rng: random.Random) -> None:
    markers = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] >= 0xC0]
    if not markers:
        return
    at = rng.choice(markers)
    if rng.random() < 0.3:
        data[at + 1] = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xDA, 0xDB, 0xE0, 0xD9))
    else:
        # Length, bits, height, width, channels and their factors.
        _put(data, at + rng.choice((2, 4, 5, 7, 9, 10, 11, 12)), rng.choice((1, 2)), rng, "big")


def _bmp(data: bytearray, rng: random.Random) -> None:
    at, width = rng.choice(
        ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4))
    )
    _put(data, at, width, rng, "little")


def _tiff(data: bytearray, rng: random.Random) -> None:
    order = "big" if data[:1] == b"M" else "little"
    sign = ">" if order == "big" else "<"
    big = 43 in data[2:4]
    head, count_bytes, entry_bytes, pointer = (8, 8, 20, 8) if big else (4, 2, 12, 4)
    found: list[int] = []
    at = int.from_bytes(data[head : head + pointer], order)  # type: ignore[arg-type]
    while 0 < at < len(data) and at not in found and len(found) < 10:
        found.append(at)
        count = int.from_bytes(data[at : at + count_bytes], order)  # type: ignore[arg-type]
        at += count_bytes + count * entry_bytes
        at = int.from_bytes(data[at : at + pointer], order)  # type: ignore[arg-type]
    if not found:
        return
    directory = rng.choice(found)
    count = int.from_bytes(
        data[directory : directory + count_bytes],
        order,  # type: ignore[arg-type]
    )
    after = directory + count_bytes + count * entry_bytes
    choice = rng.random()
    if choice < 0.1:
        _put(data, directory, count_bytes, rng, order)
    elif choice < 0.3 and after + pointer <= len(data):
        if rng.random() < 0.5:
            chained = rng.choice(found).to_bytes(pointer, order)  # type: ignore[arg-type]
            data[after : after + pointer] = chained
        else:
            _put(data, after, pointer, rng, order)
    else:
        entry = directory + count_bytes + rng.randrange(max(1, min(count, 40))) * entry_bytes
        if entry + entry_bytes > len(data):
            return
        if choice < 0.4:
            tags = (254, 256, 257, 258, 259, 262, 270, 273, 274, 277, 278, 279, 284, 317, 320)
            tag = rng.choice((*tags, 322, 323, 324, 325, 338, 339, 347, 34665, 700, 33723))
            struct.pack_into(f"{sign}H", data, entry, tag)
        elif choice < 0.5:
            struct.pack_into(f"{sign}H", data, entry + 2, rng.randrange(20))
        elif choice < 0.65:
            _put(data, entry + 4, pointer, rng, order)
        else:
            value = entry + 4 + pointer
            _put(data, value, rng.choice((2, pointer)), rng, order)


_NIFTI1_FIELDS = ((0, 4), *((at, 2) for at in range(40, 56, 2)), (70, 2), (72, 2), (123, 1))
_NIFTI1_FIELDS += (*((at, 4) for at in range(76, 132, 4)), (252, 2), (254, 2), (344, 4))
_NIFTI1_FIELDS += tuple((at, 4) for at in range(256, 328, 4))
_NIFTI2_FIELDS = ((0, 4), (4, 8), (12, 2), (14, 2), *((at, 8) for at in range(16, 216, 8)))
_NIFTI2_FIELDS += ((344, 4), (348, 4), *((at, 8) for at in range(352, 496, 8)), (500, 4))


def _nifti(data: bytearray, rng: random.Random) -> None:
    order = "little" if data[0] in (0x5C, 0x1C) else "big"
    second = 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
    at, width = rng.choice(_NIFTI2_FIELDS if second else _NIFTI1_FIELDS)
    choice = rng.random()
    if choice < 0.6 or width < 4:
        _put(data, at, width, rng, order)
        return
    value = rng.choice((0.0, 1e-30, -1.0, 352.0, 1e30, float("nan"), float("inf"), rng.random()))
    letter = "d" if width == 8 else "f"
    data[at : at + width] = struct.pack(f"{'<' if order == 'little' else '>'}{letter}", value)


def _repacked(data: bytearray, files: Mapping[str, bytes], rng: random.Random) -> bytearray:
    inside = bytearray(gzip.decompress(data))
    _damage(inside, "nifti", files, rng)
    if rng.random() < 0.1:
        inside += bytes(rng.choice((1 << 16, 1 << 22, 1 << 25)))
    packed = bytearray(gzip.compress(inside, 1, mtime=0))
    if rng.random() < 0.2:
        cut = rng.randrange(len(inside))
        packed = bytearray(gzip.compress(inside[:cut], 1, mtime=0))
        packed += gzip.compress(b"", mtime=0) * rng.choice((0, 1, 3000))
        packed += gzip.compress(inside[cut:], 1, mtime=0)
    return packed


# Elements of the file's head and of group 0028, which say how pixels are stored, and of pixels.
_DICOM_TAGS = [(0x0002, element) for element in (0x0000, 0x0001, 0x0002, 0x0003, 0x0010)]
_DICOM_TAGS += [(0x0008, element) for element in (0x0005, 0x0016, 0x0018, 0x0060)]
_DICOM_TAGS += [(0x0018, element) for element in (0x6011, 0x6018, 0x601A, 0x601C, 0x601E)]
_DICOM_TAGS += [(0x0020, element) for element in (0x000E, 0x0013, 0x0032, 0x0037)]
_DICOM_TAGS += [
    (0x0028, element)
    for element in (
        *(0x0002, 0x0004, 0x0006, 0x0008, 0x0010, 0x0011, 0x0030, 0x0100, 0x0101, 0x0102, 0x0103),
        *(0x0106, 0x0107, 0x1050, 0x1051, 0x1052, 0x1053, 0x1101, 0x1102, 0x1103, 0x1201, 0x3010),
    )
]
_DICOM_TAGS += [(0x7FE0, 0x0010), (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)]
_DICOM_TAGS += [(0x5200, 0x9229), (0x5200, 0x9230), (0x3004, 0x000A), (0x7FE0, 0x0001)]
_SYNTAXES = ("1.2", "1.2.1", "1.2.2", "1.2.1.99", "1.2.4.50", "1.2.4.51", "1.2.4.57", "1.2.4.70")
_SYNTAXES += ("1.2.4.80", "1.2.4.81", "1.2.4.90", "1.2.4.91", "1.2.4.100", "1.2.5", "1.2.4.201")
_COLOURS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR")
_COLOURS += ("YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "ARGB", "")
_TEXTS = ("0", "1", "-1", "65535", "2147483647", "99999999999", "1e400", "nan", "inf", "", "a")
_TEXTS += (r"1\0\0\0\1\0", r"0\0", r"1\1", r"-1\-1", "0.000000001")
_LONG_VR = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR")


def _dicom(data: bytearray, rng: random.Random) -> None:
    for _ in range(8):
        group, element = rng.choice(_DICOM_TAGS)
        sign = rng.choice("<<<<>")
        places, at = [], data.find(struct.pack(f"{sign}HH", group, element), 128)
        while at >= 0 and len(places) < 50:
            places.append(at)
            at = data.find(struct.pack(f"{sign}HH", group, element), at + 1)
        if places:
            break
    else:
        return
    at = rng.choice(places)
    order = "little" if sign == "<" else "big"
    vr = bytes(data[at + 4 : at + 6])
    explicit = vr.isalpha() and vr.isupper()
    length_at, length_bytes = (at + 4, 4)
    if explicit:
        length_at, length_bytes = (at + 8, 4) if vr in _LONG_VR else (at + 6, 2)
    value_at = length_at + length_bytes
    raw = bytes(data[length_at:value_at])
    length = int.from_bytes(raw, "little" if order == "little" else "big")
    length = min(length, 64)
    choice = rng.random()
    if choice < 0.2:
        _put(data, length_at, length_bytes, rng, order)
    elif choice < 0.3 and explicit:
        data[at + 4 : at + 6] = rng.choice((b"US", b"DS", b"IS", b"SQ", b"UN", b"OB", b"OW", b"AT"))
    elif choice < 0.4:
        _put(data, at, 4, rng, order)
    elif (group, element) == (0x0028, 0x0004) and choice < 0.9:
        data[value_at : value_at + length] = rng.choice(_COLOURS).encode().ljust(length)[:length]
    elif (group, element) == (0x0002, 0x0010) and choice < 0.9:
        uid = b"1.2.840.10008." + rng.choice(_SYNTAXES).encode()
        data[value_at : value_at + length] = uid.ljust(length, b"\0")[:length]
    elif vr in (b"DS", b"IS") and choice < 0.9:
        data[value_at : value_at + length] = rng.choice(_TEXTS).encode().ljust(length)[:length]
    else:
        _put(data, value_at, rng.choice((1, 2, 2, 4)), rng, order)


_AWARE: dict[str, Callable[[bytearray, random.Random], None]] = {
    "png": _png,
    "jpeg": _jpeg,
    "bmp": _bmp,
    "tiff": _tiff,
    "nifti": _nifti,
    "dicom": _dicom,
}
