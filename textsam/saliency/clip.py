"""Where BiomedCLIP sees a text: Grad-CAM through its image tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from textsam.errors import WeightsError
from textsam.frame import resize_pixels
from textsam.model.context import ContextTokens
from textsam.model.state import load_exactly
from textsam.model.text_encoders import TextEncoder, load_biomedclip
from textsam.tensors import load_tensors

__all__ = ["ClipSaliency", "build_biomedclip_image", "gradient_cam", "load_clip_saliency"]

_CONFIG = "open_clip_config.json"
# Of BiomedCLIP's configuration, what decides how the image tower is built.
_TOWER = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear"}


class _NoContext(ContextTokens):
    """No learned tokens: the text encoder as it was trained."""

    def __init__(self, hidden_size: int) -> None:
        nn.Module.__init__(self)
        self.tokens = nn.Parameter(torch.empty(0, hidden_size), requires_grad=False)
        self.deep = nn.ParameterList()


def build_biomedclip_image() -> nn.Module:
    """BiomedCLIP's image tower with untrained weights: ViT-B/16 at 224 px and a projection."""
    from open_clip.timm_model import TimmModel

    tower: nn.Module = TimmModel(
        str(_TOWER["timm_model_name"]), 512, image_size=224, pool="", proj="linear"
    )
    return tower.requires_grad_(False).eval()


def gradient_cam(tower: nn.Module, images: Tensor, text: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of the cosine between an image and a text.

    The activations are what the last attention reads: the tokens of the patches behind the last
    block's first norm, as only the class token's output is used after it. A channel weighs as the
    mean of its gradient over the patches; negative sums are cut to 0.

    Args:
        tower: open_clip's `TimmModel` of a vision transformer, frozen, in eval mode.
        images: (B, 3, S, S), normalised.
        text: (d,) features of the text.

    Returns:
        (B, rows, columns) on the grid of patches, at least 0.
    """
    trunk: Any = tower.trunk
    kept: list[Tensor] = []
    hook = trunk.blocks[-1].norm1.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        with torch.enable_grad():
            # Nothing that learns is in the tower; the image is what makes a graph.
            features = tower(images.detach().requires_grad_(True))
            cosine = F.cosine_similarity(features, text.detach()[None], dim=-1)
            (gradient,) = torch.autograd.grad(cosine.sum(), kept)
    finally:
        hook.remove()
    patches = slice(trunk.num_prefix_tokens, None)
    channels = gradient[:, patches].mean(1, keepdim=True)
    heat = (kept[0].detach()[:, patches] * channels).sum(-1).clamp_min(0)
    rows, columns = trunk.patch_embed.grid_size
    return heat.reshape(len(images), rows, columns)


class ClipSaliency:
    """Saliency of a text in an image, by a vision-language model.

    Args:
        image_tower: see `gradient_cam`.
        text_encoder: of the same model.
        mean, std: of the image tower's normalisation, per channel, for values in [0, 1].
        side_px: of the image tower's square input.
    """

    name = "biomedclip"

    def __init__(
        self,
        image_tower: nn.Module,
        text_encoder: TextEncoder,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        side_px: int = 224,
    ) -> None:
        self.image_tower = image_tower
        self.text_encoder = text_encoder
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self.side_px = side_px
        self._context = _NoContext(text_encoder.hidden_size)

    def __call__(self, pixels: NDArray[np.uint8], text: str) -> NDArray[np.float32]:
        """The saliency map.

        Args:
            pixels: (H, W, 3) in [0, 255]. The whole image is squeezed into the square: a crop, as
                in the model's own preprocessing, could lose what is asked for.
            text: such as "tumor in a breast ultrasound image".

        Returns:
            (H, W) in [0, 1]; all 0 where nothing speaks for the text.

        Raises:
            PromptError: the text has more tokens than the encoder takes.
        """
        square = resize_pixels(pixels, (self.side_px, self.side_px)).astype(np.float32) / 255
        image = (torch.from_numpy(square).permute(2, 0, 1) - self.mean) / self.std
        with torch.no_grad():
            feature = self.text_encoder([text], self._context)[0]
        heat = gradient_cam(self.image_tower, image[None], feature)
        large = F.interpolate(heat[None], pixels.shape[:2], mode="bilinear", align_corners=False)
        top = large.max()
        return np.asarray((large / top if top > 0 else large)[0, 0].numpy(), dtype=np.float32)


def load_clip_saliency(folder: str | Path) -> ClipSaliency:
    """Both towers of BiomedCLIP from a snapshot of its hub repository; never touches the network.

    Args:
        folder: as for `load_biomedclip`; `textsam.weights.resolve("biomedclip")` gives it, with
            its checksums compared.

    Raises:
        WeightsError: a file is missing, unsafe, or not BiomedCLIP's.
    """
    folder = Path(folder)
    text_encoder = load_biomedclip(folder)  # checks that the files are there
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    vision = config.get("model_cfg", {}).get("vision_cfg", {})
    for key, value in _TOWER.items():
        if vision.get(key) != value:
            raise WeightsError(
                f"{folder / _CONFIG}: vision_cfg.{key} is {vision.get(key)!r}, BiomedCLIP's is "
                f"{value!r}; this is another model"
            )
    pixels = config.get("preprocess_cfg", {})
    if not all(len(pixels.get(key, ())) == 3 for key in ("mean", "std")):
        raise WeightsError(
            f"{folder / _CONFIG} has no preprocess_cfg with mean and std of three channels; "
            "download it again"
        )
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    path = next(folder / name for name in names if (folder / name).is_file())
    state = {
        name.removeprefix("visual."): tensor
        for name, tensor in load_tensors(path).items()
        if name.startswith("visual.")
    }
    tower = build_biomedclip_image()
    load_exactly(tower, state, source=str(path))
    return ClipSaliency(
        tower, text_encoder, mean=tuple(pixels["mean"]), std=tuple(pixels["std"]), side_px=224
    )
