"""The dock widget: choose an image layer, name what to find, get a labels layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, Label, LineEdit, ProgressBar, PushButton
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_error, show_info
from napari.utils.transforms import Affine

from textsam.adapters import find_adapter, read_adapter_config, shipped_adapters
from textsam.errors import TextSAMError
from textsam.napari_plugin.completer import PromptCompleter, split_prompts
from textsam.napari_plugin.planes import Planes, choose_planes
from textsam.napari_plugin.result import colours, features, join_masks
from textsam.napari_plugin.work import Load, Outcome, load_kept, segment_planes
from textsam.presets import PRESETS
from textsam.prompts import synonyms

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["SegmentWidget"]

# Cosine of the angle between rows and columns up to which it counts as a right one.
_RIGHT_ANGLE = 1e-6


class SegmentWidget(Container):  # type: ignore[type-arg]
    """Segment an image layer of the viewer by words.

    The model runs in a thread of its own. The result is a labels layer over the image: label i for
    the i-th prompt, its facts in the layer's features, the full answers in its metadata under
    "textsam".

    Args:
        napari_viewer: whose layers are offered and where the result goes.
        load_segmenter: makes the model; replaced in tests.
    """

    def __init__(
        self, napari_viewer: napari.viewer.Viewer, load_segmenter: Load = load_kept
    ) -> None:
        self._viewer = napari_viewer
        self._load_segmenter = load_segmenter
        self._worker: Any = None
        self._answered = False
        self.image = ComboBox(label="image", choices=self._images, tooltip="Layer to segment.")
        self.prompts = LineEdit(label="prompts", tooltip="What to find, with commas between.")
        self.model = ComboBox(label="model", choices=list(PRESETS), value="lite")
        self.adapter = LineEdit(
            label="adapter",
            tooltip="Name of an adapter that comes with TextSAM, or an adapter folder.",
        )
        self.refine = ComboBox(
            label="refine",
            choices=[("as the adapter asks", -1), *((str(n), n) for n in range(4))],
            tooltip="How often the mask's own centre and box are fed back.",
        )
        self.every = CheckBox(
            text="all slices", tooltip="All slices along the first axis that is not displayed."
        )
        self.as_displayed = CheckBox(
            text="use contrast limits",
            tooltip="Show the model the range of values that the layer shows.",
        )
        self.run = PushButton(text="Segment")
        self.progress = ProgressBar(value=0, min=0, max=1, visible=False)
        self.status = Label(value="")
        super().__init__(
            widgets=[
                self.image,
                self.prompts,
                self.model,
                self.adapter,
                self.refine,
                self.every,
                self.as_displayed,
                self.run,
                self.progress,
                self.status,
            ]
        )
        self.adapter.native.setPlaceholderText("the model's own")
        self.status.native.setWordWrap(True)
        self.run.changed.connect(self._run_or_stop)
        self.model.changed.connect(self._offer_prompts)
        self.adapter.changed.connect(self._offer_prompts)
        for event in ("inserted", "removed", "reordered"):
            getattr(napari_viewer.layers.events, event).connect(self._refresh)
        self._offer_prompts()

    def _refresh(self, _event: object = None) -> None:
        self.image.reset_choices()

    def _images(self, _widget: object = None) -> list[tuple[str, Image]]:
        return [(layer.name, layer) for layer in self._viewer.layers if isinstance(layer, Image)]

    def _adapter_name(self) -> str | None:
        return str(self.adapter.value).strip() or None

    def _offer_prompts(self) -> None:
        """Complete with what the chosen adapter knows, its synonyms after its concepts."""
        name = self._adapter_name() or PRESETS[self.model.value].default_adapter
        words: list[str] = []
        hint = f"adapters that come with TextSAM: {', '.join(shipped_adapters()) or 'none'}"
        if name is not None:
            try:
                known = read_adapter_config(find_adapter(name)).prompts
            except TextSAMError:
                # Half a name is no error while it is typed; `Segment` says what is wrong.
                known = ()
            words = [*known, *(text for others in synonyms(known).values() for text in others)]
            hint = f"knows: {', '.join(known)}" if known else hint
        line = self.prompts.native
        line.setCompleter(PromptCompleter(words, line))
        line.setPlaceholderText(hint)

    def _run_or_stop(self) -> None:
        if self._worker is not None:
            self._worker.quit()
            return
        try:
            self._start()
        except TextSAMError as error:
            show_error(str(error))

    def _start(self) -> None:
        layer, prompts = self.image.value, split_prompts(self.prompts.value)
        if layer is None:
            show_error("there is no image layer; open an image first")
            return
        if not prompts:
            show_error("the prompts are empty; name what to find, such as: tumor, lung")
            return
        planes = self._planes(layer)
        refine = None if self.refine.value < 0 else int(self.refine.value)
        worker = create_worker(
            segment_planes,
            self._load_segmenter,
            self.model.value,
            self._adapter_name(),
            planes,
            prompts,
            refine,
        )
        worker.yielded.connect(partial(self._show_progress, len(planes.planes)))
        worker.returned.connect(partial(self._finish, layer, planes, prompts))
        worker.finished.connect(self._reset)
        self._worker = worker
        self._answered = False
        self.run.text = "Stop"
        self.status.value = "loading the model"
        self.progress.visible = True
        self.progress.max = 0  # no end in sight yet: Qt draws it as busy
        worker.start()

    def _planes(self, layer: Image) -> Planes:
        data = layer.data[0] if layer.multiscale else layer.data
        dims = self._viewer.dims
        # A layer's axes are the last ones of the viewer.
        before = dims.ndim - layer.ndim
        order = [axis - before for axis in dims.order if axis >= before]
        rows, columns = order[-2:]
        return choose_planes(
            data,
            rgb=layer.rgb,
            point=layer.world_to_data(dims.point),
            displayed=(rows, columns),
            every=bool(self.every.value),
            source=layer.name,
            spacing_mm=_spacing_mm(layer, rows, columns),
            contrast=tuple(layer.contrast_limits) if self.as_displayed.value else None,
        )

    def _show_progress(self, total: int, done: int) -> None:
        self.progress.max = total
        self.progress.value = done
        self.status.value = f"{done} of {total}"

    def _finish(self, layer: Image, planes: Planes, prompts: list[str], outcome: Outcome) -> None:
        if outcome.error is not None:
            show_error(_told(outcome, len(planes.planes)))
            return
        result = _labels_layer(layer, planes, prompts, outcome)
        self._viewer.add_layer(result)
        self._answered = True
        table = result.features
        lines = [
            f"{row.prompt}: {row.area_px} px, score {row.score:.2f}"
            if row.found
            else f"{row.prompt}: not found (score {row.score:.2f})"
            for row in table.itertuples()
        ]
        if outcome.failed:
            # Where there is no label nothing was found, or nothing was looked at.
            lines.append(_failures(outcome, len(planes.planes)))
            show_error(_told(outcome, len(planes.planes)))
        self.status.value = "\n".join(lines)
        if not table["found"].any():
            show_info(f"nothing found in {layer.name}: {', '.join(prompts)}")

    def _reset(self) -> None:
        self._worker = None
        self.run.text = "Segment"
        self.progress.visible = False
        if not self._answered:
            self.status.value = ""


def _told(outcome: Outcome, planes: int) -> str:
    """What went wrong, and of several slices in how many."""
    if not outcome.failed or planes == 1:
        return str(outcome.error)
    return f"{_failures(outcome, planes)}; the first: {next(iter(outcome.failed.values()))}"


def _failures(outcome: Outcome, planes: int) -> str:
    return f"{len(outcome.failed)} of {planes} slices failed and have no labels"


def _labels_layer(layer: Image, planes: Planes, prompts: list[str], outcome: Outcome) -> Labels:
    """The answers as a layer that lies over the image, wherever that lies in the world."""
    block = np.zeros(planes.shape, dtype=np.uint16)
    for number, answers in outcome.answers.items():
        planes.put(block, number, join_masks(answers))
    table = features(prompts, list(outcome.answers.values()))
    record: dict[str, Any] = {
        "model": outcome.model,
        "planes": [
            {
                "index": list(planes.planes[number].index),
                "results": [a.to_dict() for a in answers],
            }
            for number, answers in outcome.answers.items()
        ],
    }
    if outcome.failed:
        table["failed_planes"] = [len(outcome.failed)] * len(prompts)
        record["failed"] = [
            {"index": list(planes.planes[number].index), "error": str(error)}
            for number, error in outcome.failed.items()
        ]
    return Labels(
        block,
        name=f"{layer.name}: {', '.join(prompts)}",
        scale=layer.scale,
        translate=_own(layer)(np.array(planes.offset, dtype=float)),
        rotate=layer.rotate,
        shear=layer.shear,
        affine=layer.affine,
        units=layer.units,
        axis_labels=layer.axis_labels,
        features=table,
        colormap=DirectLabelColormap(color_dict=colours(len(prompts))),
        metadata={"textsam": record},
    )


def _spacing_mm(layer: Image, rows: int, columns: int) -> tuple[float, float] | None:
    """Distance between rows and between columns in the world, where its units are lengths.

    None also where rows and columns are not at right angles there: a pixel is then no rectangle.
    """
    ways = (layer.affine.linear_matrix @ _own(layer).linear_matrix)[:, [rows, columns]]
    for axis, unit in enumerate(layer.units):
        if not ways[axis].any():
            continue
        if not unit.is_compatible_with("mm"):
            return None
        ways[axis] *= (1 * unit).to("mm").magnitude
    down, right = np.linalg.norm(ways, axis=0)
    if abs(ways[:, 0] @ ways[:, 1]) > _RIGHT_ANGLE * down * right:
        return None
    return float(down), float(right)


def _own(layer: Image) -> Affine:
    """Where the layer lies but for its `affine`, which napari applies after it."""
    return Affine(
        scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear
    )
