"""The napari plugin: its panel without a screen, its labels against the library's own answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage
from tiny import tiny_segmenter

import textsam.napari_plugin
from textsam.errors import AdapterError, ImageError
from textsam.inference.segmenter import Segmenter
from textsam.io.image import Image
from textsam.napari_plugin.planes import Plane, choose_planes
from textsam.napari_plugin.result import COLOURS, colours, features, join_masks
from textsam.result import Segmentation

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from textsam.napari_plugin.widget import SegmentWidget

# napari 0.9 and its parts warn while they are imported and used; none of it is ours to change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),
]

MANIFEST = Path(textsam.napari_plugin.__file__).parent / "napari.yaml"


def blobs(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth grey or RGB planes: masks of a tiny model have an edge on these."""
    rng = np.random.default_rng(seed)

    def plane(height: int, width: int) -> NDArray[np.uint8]:
        coarse = PILImage.fromarray(rng.integers(0, 255, (6, 7), dtype=np.uint8))
        return np.asarray(coarse.resize((width, height), PILImage.Resampling.BICUBIC))

    if len(shape) == 2:
        return plane(*shape)
    return np.stack([blobs(*shape[1:], seed=seed + 1 + i) for i in range(shape[0])])


# --- planes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("displayed", [(1, 2), (2, 1), (0, 2), (2, 0), (0, 1)])
def test_a_plane_is_what_is_displayed(rgb: bool, displayed: tuple[int, int]) -> None:
    data = np.random.default_rng(0).integers(0, 255, (9, 10, 11, 3), dtype=np.uint8)
    data = data if rgb else data[..., 0]
    point = (3.4, 5.6, 7.5)
    planes = choose_planes(
        data, rgb=rgb, point=point, displayed=displayed, every=False, source="ct"
    )
    fixed = ({0, 1, 2} - set(displayed)).pop()
    at = (3, 6, 8)[fixed]
    wanted = np.take(data, at, axis=fixed)
    if displayed[0] > displayed[1]:
        wanted = np.swapaxes(wanted, 0, 1)
    (plane,) = planes.planes
    got = plane.read().pixels
    assert np.array_equal(got, wanted if rgb else np.repeat(wanted[..., None], 3, axis=-1))
    assert planes.axis is None
    assert planes.offset == tuple(at if axis == fixed else 0 for axis in range(3))
    assert planes.shape == tuple(1 if a == fixed else n for a, n in enumerate((9, 10, 11)))
    # What is put back lies where it came from.
    block = np.zeros(planes.shape, dtype=np.uint8)
    planes.put(block, 0, got[..., 0])
    assert np.array_equal(
        np.squeeze(block, fixed), np.take(data[..., 0] if rgb else data, at, fixed)
    )


@pytest.mark.parametrize("displayed", [(2, 3), (3, 2), (0, 3)])
def test_every_plane_along_the_first_axis_not_displayed(displayed: tuple[int, int]) -> None:
    data = np.random.default_rng(0).integers(0, 255, (9, 10, 11, 12), dtype=np.uint8)
    planes = choose_planes(
        data, rgb=False, point=(3, 4, 5, 6), displayed=displayed, every=True, source="4d"
    )
    first, other = [axis for axis in range(4) if axis not in displayed]
    assert planes.axis == first
    assert len(planes.planes) == data.shape[first]
    assert planes.offset[other] == (3, 4, 5, 6)[other]
    assert planes.offset[first] == 0
    block = np.zeros(planes.shape, dtype=np.uint8)
    for number, plane in enumerate(planes.planes):
        planes.put(block, number, plane.read().pixels[..., 0])
    assert np.array_equal(block, np.take(data, [(3, 4, 5, 6)[other]], axis=other))


def test_a_flat_image_has_one_plane_even_if_all_are_asked_for() -> None:
    data = blobs(20, 30)
    planes = choose_planes(
        data, rgb=False, point=(0, 0), displayed=(0, 1), every=True, source="flat"
    )
    assert [plane.source for plane in planes.planes] == ["flat"]
    assert planes.shape == (20, 30)


@pytest.mark.parametrize("at", [-0.6, 8.5, 100.0])
def test_a_slice_outside_of_the_image_is_refused(at: float) -> None:
    with pytest.raises(ImageError, match=r"ct: the current slice, .* along axis 0, is outside"):
        choose_planes(
            np.zeros((9, 10, 11)), rgb=False, point=(at, 0, 0), displayed=(1, 2), every=False,
            source="ct",
        )  # fmt: skip


def test_what_cannot_be_read_is_named_with_its_slice() -> None:
    data = np.zeros((9, 10, 11))
    data[4, 2, 3] = np.nan
    planes = choose_planes(
        data, rgb=False, point=(0, 0, 0), displayed=(1, 2), every=True, source="ct"
    )
    with pytest.raises(ImageError, match=r"^ct \[4, 0, 0\]: 1 of 110 values are NaN"):
        planes.planes[4].read()


def test_contrast_limits_become_black_and_white() -> None:
    data = np.arange(-100, 100, dtype=np.int16).reshape(10, 20)
    image = Plane(data, (0, 0), 0, 1, False, "ct", (2.0, 3.0), (-50.0, 50.0)).read()
    wanted = np.clip((data + 50.0) / 100 * 255, 0, 255)
    np.testing.assert_allclose(image.pixels[..., 0], wanted, atol=1e-4)
    assert (image.source, image.spacing_mm) == ("ct", (2.0, 3.0))
    plain = Plane(data, (0, 0), 0, 1, False, "ct").read()
    assert plain.pixels.min() == 0
    assert plain.pixels[0, 10, 0] == pytest.approx(255 * 10 / 199)


# --- result -----------------------------------------------------------------------------------


def answer(
    mask: list[str], probability: float, *, found: bool = True, score: float = 0.5
) -> Segmentation:
    inside = np.array([[cell == "x" for cell in row] for row in mask])
    image = Image(np.zeros((*inside.shape, 3), np.uint8), "array", spacing_mm=(2.0, 0.5))
    return Segmentation(
        mask=inside & found,
        probability=np.where(inside, np.float32(probability), np.float32(0.1)),
        score=score, found=found, prompt="p", image=image, adapter="a", model="m",
    )  # fmt: skip


def test_overlaps_go_to_the_surer_answer_and_to_the_first_of_equals() -> None:
    sure, unsure = answer(["xx.", "xx."], 0.9), answer([".xx", ".xx"], 0.6)
    assert join_masks([sure, unsure]).tolist() == [[1, 1, 2], [1, 1, 2]]
    assert join_masks([unsure, sure]).tolist() == [[2, 2, 1], [2, 2, 1]]
    assert join_masks([unsure, unsure]).tolist() == [[0, 1, 1], [0, 1, 1]]


def test_features_are_over_all_planes() -> None:
    first = [answer(["xx"], 0.9, score=0.8), answer(["x."], 0.9, score=0.3, found=False)]
    second = [answer(["x."], 0.9, score=0.9), answer(["x."], 0.9, score=0.2, found=False)]
    assert features(["tumor", "lung"], [first, second]) == {
        "index": [1, 2],
        "prompt": ["tumor", "lung"],
        "found": [True, False],
        "score": [0.9, 0.3],
        "planes": [2, 0],
        "area_px": [3, 0],
        "area_mm2": [3.0, 0.0],
    }


def test_every_label_has_a_colour() -> None:
    table = colours(9)
    assert table[0] == table[None] == (0, 0, 0, 0)
    assert [table[i][:3] for i in range(1, 10)] == [*COLOURS, *COLOURS[:2]]
    assert all(table[i][3] == 1 for i in range(1, 10))


# --- native libraries -------------------------------------------------------------------------

LLVM = sorted(Path("/usr/lib").glob("*-linux-gnu/libLLVM*.so*")) if sys.platform == "linux" else []


@pytest.mark.skipif(not LLVM, reason="no LLVM of Mesa's OpenGL drivers on this machine")
def test_torch_is_imported_after_mesa_has_loaded_another_llvm() -> None:
    code = (
        "import ctypes, os, sys\n"
        "ctypes.CDLL(sys.argv[1], mode=os.RTLD_GLOBAL | os.RTLD_NOW)\n"
        "from textsam.napari_plugin.native import separate_triton\n"
        "library = separate_triton()\n"
        "import torch._dynamo\n"
        "assert (library is None) == ('triton' not in sys.modules)\n"
        "assert separate_triton() is None or 'triton' not in sys.modules\n"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, LLVM[0]], check=True, cwd=root)


def test_the_plugin_separates_triton_before_it_imports_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from textsam import api
    from textsam.napari_plugin import native, work

    order: list[object] = []
    monkeypatch.setattr(native, "separate_triton", lambda: order.append("separate"))
    monkeypatch.setattr(api, "load_model", lambda *given: order.append(given))
    work.load("lite", None)
    assert order == ["separate", ("lite", None)]


def test_an_adapter_that_was_written_again_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsam.adapters import CONFIG_FILE, TENSORS_FILE
    from textsam.napari_plugin import work

    loaded: list[tuple[str, str | None]] = []
    segmenter = tiny_segmenter()

    def load(preset: str, adapter: str | None) -> Segmenter:
        loaded.append((preset, adapter))
        return segmenter

    monkeypatch.setattr(work, "load", load)
    work._last.cache_clear()
    for name in (CONFIG_FILE, TENSORS_FILE):
        (tmp_path / name).write_bytes(b"first")
    for _ in range(2):
        assert work.load_kept("lite", str(tmp_path)) is segmenter
    assert loaded == [("lite", str(tmp_path))]
    (tmp_path / TENSORS_FILE).write_bytes(b"again, longer")
    for _ in range(2):
        work.load_kept("lite", str(tmp_path))
    assert loaded == [("lite", str(tmp_path))] * 2
    work.load_kept("vit_b", str(tmp_path))
    assert loaded[2:] == [("vit_b", str(tmp_path))]
    with pytest.raises(AdapterError, match="no adapter"):
        work.load_kept("lite", str(tmp_path / "missing"))
    work._last.cache_clear()


# --- manifest ---------------------------------------------------------------------------------


def test_the_manifest_is_valid_and_leads_to_the_widget(qt: Any) -> None:
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    (widget,) = manifest.contributions.widgets or []
    (command,) = manifest.contributions.commands or []
    assert (manifest.name, widget.command) == ("textsam", command.id)
    assert command.python_name == "textsam.napari_plugin.widget:SegmentWidget"


def test_the_package_announces_the_manifest() -> None:
    import tomllib

    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = project["entry-points"]["napari.manifest"]["textsam"]
    package, _, name = entry.partition(":")
    assert package == "textsam.napari_plugin"
    assert MANIFEST.name == name


# --- widget -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Qt application without a screen, and napari's settings in a folder of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("QT_QPA_PLATFORM", "offscreen")
    patch.setenv("NAPARI_CONFIG", str(tmp_path_factory.mktemp("napari") / "settings.yaml"))
    try:
        from qtpy.QtWidgets import QApplication
    except ImportError as error:
        pytest.skip(f"Qt cannot be loaded on this machine: {error}")
    yield QApplication.instance() or QApplication([])
    patch.undo()


class Session:
    """A viewer without a window, the panel, and what the user was told."""

    def __init__(self, load: Callable[[str, str | None], Segmenter]) -> None:
        from napari.components import ViewerModel

        from textsam.napari_plugin.widget import SegmentWidget

        self.viewer: ViewerModel = ViewerModel()
        self.asked: list[tuple[str, str | None]] = []
        self.load = load
        self.told: list[tuple[str, str]] = []
        self.widget: SegmentWidget = SegmentWidget(self.viewer, self._load)

    def _load(self, preset: str, adapter: str | None) -> Segmenter:
        self.asked.append((preset, adapter))
        return self.load(preset, adapter)

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "the worker did not finish"
            QApplication.processEvents()
            time.sleep(0.005)

    def run(self, prompts: str) -> None:
        self.widget.prompts.value = prompts
        self.widget.run.changed.emit(True)
        self.wait(lambda: self.widget._worker is None)


@pytest.fixture
def session(qt: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    from napari.utils.notifications import Notification, notification_manager

    made = Session(lambda *_: tiny_segmenter())

    def tell(note: Notification) -> None:
        made.told.append((str(note.severity), note.message))

    notification_manager.notification_ready.connect(tell)
    yield made
    notification_manager.notification_ready.disconnect(tell)
    made.widget.close()


def labels_of(session: Session) -> Any:
    from napari.layers import Labels

    (layer,) = [layer for layer in session.viewer.layers if isinstance(layer, Labels)]
    return layer


def expected(pixels: NDArray[Any], *prompts: str, **options: Any) -> list[Segmentation]:
    return tiny_segmenter().segment(pixels, prompts, **options)


def test_an_image_and_two_words(session: Session) -> None:
    pixels = blobs(50, 70)
    session.viewer.add_image(
        pixels, name="scan", scale=(2, 0.5), translate=(10, -3), units=("mm", "mm"), rotate=30
    )
    session.run(" tumors, lung,, lung")
    layer, answers = labels_of(session), expected(pixels, "tumors", "lung")
    assert session.told == []
    assert session.asked == [("lite", None)]
    assert np.array_equal(layer.data, join_masks(answers))
    assert set(np.unique(layer.data)) == {0, 1, 2}
    assert layer.name == "scan: tumors, lung"
    image = session.viewer.layers["scan"]
    for name in ("scale", "translate", "rotate", "shear"):
        assert np.allclose(getattr(layer, name), getattr(image, name)), name
    assert layer.units == image.units
    table = layer.features
    assert table["prompt"].tolist() == ["tumors", "lung"]
    assert table["found"].tolist() == [a.found for a in answers]
    assert table["score"].tolist() == [round(a.score, 4) for a in answers]
    assert table["area_px"].tolist() == [a.area_px for a in answers]
    assert table["area_mm2"].tolist() == pytest.approx([a.area_px * 2 * 0.5 for a in answers])
    assert np.allclose(layer.colormap.map(np.array([1, 2]))[:, :3], COLOURS[:2])
    record = layer.metadata["textsam"]
    assert record["model"] == "lite / tiny"
    (plane,) = record["planes"]
    assert [r["area_px"] for r in plane["results"]] == [a.area_px for a in answers]
    assert session.widget.run.text == "Segment"
    assert f"{answers[0].area_px} px" in session.widget.status.value


@pytest.mark.parametrize(
    ("placed", "pixel_mm2"),
    [
        ({"affine": np.diag([2.0, 3.0, 1.0])}, 6.0),
        ({"affine": [[0, -2, 5], [2, 0, 7], [0, 0, 1]], "scale": (2, 0.5)}, 4.0),
        ({"scale": (-2, 0.5), "units": ("um", "cm")}, 0.01),
        ({"shear": [0.5]}, None),
        ({"affine": [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]}, None),
        ({"scale": (2, 2), "units": ("s", "mm")}, None),
    ],
    ids=["stretched", "turned", "units", "shear", "sheared", "seconds"],
)
def test_areas_are_those_in_the_world(
    session: Session, placed: dict[str, Any], pixel_mm2: float | None
) -> None:
    session.viewer.add_image(blobs(50, 70), name="scan", **{"units": ("mm", "mm"), **placed})
    session.run("lung")
    assert session.told == []
    table = labels_of(session).features
    if pixel_mm2 is None:
        assert "area_mm2" not in table
    else:
        area_px = table["area_px"].to_numpy()
        assert area_px.all()
        assert table["area_mm2"].tolist() == pytest.approx(area_px * pixel_mm2, abs=1e-3)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")  # it shows such slices all the same
def test_areas_of_slices_that_are_turned_in_the_world(qt: Any) -> None:
    from napari.layers import Image as ImageLayer

    from textsam.napari_plugin.widget import _spacing_mm

    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 3], [2, 0, 0], [0, 5, 0]]
    image = ImageLayer(blobs(3, 20, 20), affine=turned, units=("mm", "mm", "mm"))
    assert _spacing_mm(image, 1, 2) == pytest.approx((5, 3))
    assert _spacing_mm(image, 0, 1) == pytest.approx((2, 5))


def test_rgb(session: Session) -> None:
    pixels = np.stack([blobs(40, 60, seed=i) for i in range(3)], axis=-1)
    session.viewer.add_image(pixels, name="photo", rgb=True)
    session.run("lung")
    layer, (answer,) = labels_of(session), expected(pixels, "lung")
    assert answer.found
    assert np.array_equal(layer.data > 0, answer.mask)
    assert "area_mm2" not in layer.features


def test_the_current_slice_of_a_volume(session: Session) -> None:
    volume = blobs(5, 40, 60)
    session.viewer.add_image(volume, name="ct", scale=(3, 1, 1), translate=(10, 0, 0))
    session.viewer.dims.set_point(0, 10 + 3 * 2)
    session.run("lung")
    layer, (answer,) = labels_of(session), expected(volume[2], "lung")
    assert layer.data.shape == (1, 40, 60)
    assert np.array_equal(layer.data[0] > 0, answer.mask)
    # It lies over slice 2 and no other.
    assert layer.extent.world[:, 0].tolist() == [16, 16]
    y, x = np.argwhere(answer.mask)[0]
    assert layer.get_value((16, y, x), world=True) == 1
    session.viewer.dims.set_point(0, 13)
    assert layer.get_value((13, y, x), world=True) in (None, 0)


def test_all_slices(session: Session) -> None:
    volume = blobs(4, 40, 60)
    session.viewer.add_image(volume, name="ct", scale=(3, 1, 1), translate=(10, 0, 0))
    session.widget.every.value = True
    session.run("lung, tumor")
    layer = labels_of(session)
    per_plane = [expected(plane, "lung", "tumor") for plane in volume]
    assert np.array_equal(layer.data, np.stack([join_masks(plane) for plane in per_plane]))
    assert layer.translate.tolist() == [10, 0, 0]
    assert layer.features["area_px"].tolist() == [
        sum(plane[i].area_px for plane in per_plane) for i in range(2)
    ]
    assert layer.features["planes"].tolist() == [
        sum(plane[i].found for plane in per_plane) for i in range(2)
    ]
    assert [p["index"] for p in layer.metadata["textsam"]["planes"]] == [
        [i, 0, 0] for i in range(4)
    ]


def test_a_slice_that_fails_leaves_the_others_their_labels(session: Session) -> None:
    volume = blobs(4, 40, 60).astype(np.float32)
    volume[2, 3, 4] = np.nan
    session.viewer.add_image(volume, name="ct", contrast_limits=(0, 255))
    session.widget.every.value = True
    session.run("lung, tumor")
    ((severity, message),) = session.told
    assert severity == "error"
    told = "1 of 4 slices failed and have no labels; the first: ct [2, 0, 0]: 1 of 2,400 values"
    assert message.startswith(told)
    layer = labels_of(session)
    for number in (0, 1, 3):
        wanted = join_masks(expected(volume[number], "lung", "tumor"))
        assert wanted.any()
        assert np.array_equal(layer.data[number], wanted), number
    assert not layer.data[2].any()
    assert layer.features["failed_planes"].tolist() == [1, 1]
    record = layer.metadata["textsam"]
    assert [plane["index"] for plane in record["planes"]] == [[0, 0, 0], [1, 0, 0], [3, 0, 0]]
    assert [plane["index"] for plane in record["failed"]] == [[2, 0, 0]]
    assert record["failed"][0]["error"].startswith("ct [2, 0, 0]: 1 of 2,400 values are NaN")
    assert "1 of 4 slices failed and have no labels" in session.widget.status.value


def test_of_slices_that_all_fail_there_is_no_layer(session: Session) -> None:
    volume = np.full((3, 40, 60), np.nan)
    session.viewer.add_image(volume, name="ct", contrast_limits=(0, 1))
    session.widget.every.value = True
    session.run("lung")
    ((severity, message),) = session.told
    assert (severity, message[:21]) == ("error", "3 of 3 slices failed ")
    assert "ct [0, 0, 0]: 2,400 of 2,400 values are NaN" in message
    assert [layer.name for layer in session.viewer.layers] == ["ct"]


def test_another_side_of_a_volume_and_a_flat_layer_beside_it(session: Session) -> None:
    volume = blobs(24, 40, 60)
    session.viewer.add_image(volume, name="ct")
    flat = blobs(30, 44, seed=9)
    session.viewer.add_image(flat, name="flat")
    session.viewer.dims.order = (2, 0, 1)
    session.viewer.dims.set_point(2, 33)
    session.widget.image.value = session.viewer.layers["ct"]
    session.run("lung")
    layer, (answer,) = labels_of(session), expected(volume[:, :, 33], "lung")
    assert layer.data.shape == (24, 40, 1)
    assert np.array_equal(layer.data[..., 0] > 0, answer.mask)
    session.viewer.layers.remove(layer)
    # The flat layer's axes are the viewer's last two, which are displayed the other way round.
    session.widget.image.value = session.viewer.layers["flat"]
    session.run("lung")
    layer, (answer,) = labels_of(session), expected(flat.T, "lung")
    assert np.array_equal(layer.data.T > 0, answer.mask)


def test_multiscale_uses_the_finest_level(session: Session) -> None:
    pixels = blobs(64, 80)
    session.viewer.add_image([pixels, pixels[::2, ::2]], name="pyramid", multiscale=True)
    session.run("lung")
    (answer,) = expected(pixels, "lung")
    assert np.array_equal(labels_of(session).data > 0, answer.mask)


def test_contrast_limits_and_refinement_reach_the_model(session: Session) -> None:
    pixels = blobs(50, 70).astype(np.float32) * 10
    session.viewer.add_image(pixels, name="scan", contrast_limits=(500, 1500))
    session.widget.as_displayed.value = True
    session.widget.refine.value = 3
    session.run("lung")
    shown = np.clip((pixels.astype(np.float64) - 500) / 1000, 0, 1)
    (answer,) = expected(shown, "lung", refine=3)
    assert np.array_equal(labels_of(session).data > 0, answer.mask)
    assert not np.array_equal(answer.mask, expected(pixels, "lung")[0].mask)


def test_model_and_adapter_reach_the_loader(session: Session, tmp_path: Path) -> None:
    session.viewer.add_image(blobs(50, 70))
    session.widget.model.value = "vit_b"
    session.widget.adapter.value = f" {tmp_path} "
    session.run("lung")
    assert session.asked == [("vit_b", str(tmp_path))]


def test_what_is_not_there_is_said(session: Session) -> None:
    session.load = lambda *_: tiny_segmenter(found_threshold=1.0)
    session.viewer.add_image(blobs(50, 70), name="scan")
    session.run("lung")
    assert not labels_of(session).data.any()
    assert session.told == [("info", "nothing found in scan: lung")]
    assert "lung: not found" in session.widget.status.value


def test_the_answer_to_words_with_of_in_them_stays(session: Session) -> None:
    session.viewer.add_image(blobs(50, 70), name="scan")
    session.run("nuclei of cells")
    assert str(session.widget.status.value).startswith("nuclei of cells: ")


def test_errors_are_told_and_leave_no_layer(session: Session) -> None:
    def refuse(*_: object) -> Segmenter:
        raise AdapterError("no adapter 'nowhere'; give another")

    session.run("lung")
    assert session.told.pop() == ("error", "there is no image layer; open an image first")
    session.viewer.add_image(np.full((50, 70), np.nan), name="bad", contrast_limits=(0, 1))
    session.run(" , ")
    severity, message = session.told.pop()
    assert (severity, message[:21]) == ("error", "the prompts are empty")
    session.run("lung")
    severity, message = session.told.pop()
    assert severity == "error"
    assert "NaN" in message
    session.run("!")
    assert "is empty" in session.told.pop()[1]
    session.load = refuse
    session.run("lung")
    assert session.told.pop() == ("error", "no adapter 'nowhere'; give another")
    assert session.told == []
    assert [layer.name for layer in session.viewer.layers] == ["bad"]
    # And the panel works on.
    session.load = lambda *_: tiny_segmenter()
    session.viewer.layers[0].data = blobs(50, 70)
    session.run("lung")
    assert labels_of(session).data.any()


def test_a_bug_is_raised_in_the_main_thread_and_the_panel_works_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Segmenter:
        raise ValueError("a bug")

    caught: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: caught.append(kind))
    session.load = fail
    session.viewer.add_image(blobs(50, 70))
    session.run("lung")
    session.wait(lambda: bool(caught))
    assert caught == [ValueError]
    assert session.widget.run.text == "Segment"


@pytest.mark.filterwarnings("ignore::textsam.inference.segmenter.UnknownPromptWarning")
def test_unknown_words_are_tried(session: Session) -> None:
    pixels = blobs(50, 70)
    session.viewer.add_image(pixels)
    session.run("dog")
    (answer,) = expected(pixels, "dog")
    assert np.array_equal(labels_of(session).data > 0, answer.mask)


def test_a_long_run_can_be_stopped(session: Session) -> None:
    session.viewer.add_image(np.broadcast_to(blobs(40, 60), (2000, 40, 60)), name="long")
    session.widget.every.value = True
    session.widget.prompts.value = "lung"
    session.widget.run.changed.emit(True)
    assert session.widget.run.text == "Stop"
    session.wait(lambda: session.widget.progress.max == 2000 and session.widget.progress.value > 1)
    session.widget.run.changed.emit(True)
    session.wait(lambda: session.widget._worker is None)
    assert [layer.name for layer in session.viewer.layers] == ["long"]
    assert (session.widget.run.text, session.widget.status.value) == ("Segment", "")


def test_layers_are_offered_as_they_come_and_go(session: Session) -> None:
    assert session.widget.image.choices == ()
    session.viewer.add_image(blobs(20, 30), name="one")
    session.viewer.add_labels(np.zeros((20, 30), int), name="labels")
    session.viewer.add_image(blobs(20, 30), name="two")
    assert [layer.name for layer in session.widget.image.choices] == ["one", "two"]
    session.viewer.layers.remove("one")
    assert [layer.name for layer in session.widget.image.choices] == ["two"]


def completions(session: Session, text: str) -> list[str]:
    """What is offered when `text` has been typed."""
    line = session.widget.prompts.native
    line.setText(text)
    completer = line.completer()
    (part,) = completer.splitPath(text)
    completer.setCompletionPrefix(part)
    model = completer.completionModel()
    return [
        completer.pathFromIndex(model.index(row, 0)) for row in range(completer.completionCount())
    ]


def test_the_last_word_is_completed(session: Session) -> None:
    assert "tumor" in completions(session, "tu")
    assert "tumor, cell nucleus" in completions(session, "tumor, nuc")
    assert completions(session, "zzz") == []
    session.widget.adapter.value = "no such adapter"
    assert completions(session, "tu") == []
    assert "generalist" in session.widget.prompts.native.placeholderText()
    session.widget.adapter.value = "generalist"
    assert "knows: tumor" in session.widget.prompts.native.placeholderText()
