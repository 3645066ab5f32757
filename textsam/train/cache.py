"""Image embeddings on disk, for training with a frozen encoder on a machine without a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from textsam.io.atomic import atomic_path, told_as_output

__all__ = ["EmbeddingCache"]


class EmbeddingCache:
    """Embeddings keyed by what was embedded and by which encoder.

    Args:
        folder: made if needed; 2 MB per image (float16) where h is 64.
        encoder_id: changes when the encoder does, e.g. the sha256 of its weights.
    """

    def __init__(self, folder: str | Path, encoder_id: str) -> None:
        self.folder = Path(folder)
        self.encoder_id = encoder_id

    def path_of(self, image: Tensor) -> Path:
        """Where the embedding of a (3, S, S) image lies, whether it exists or not."""
        digest = hashlib.sha256(self.encoder_id.encode())
        digest.update(str(tuple(image.shape)).encode())
        digest.update(image.detach().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def __call__(self, image: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """The (1, 256, h, h) float32 embedding of a (3, S, S) image, computed once.

        A first answer is rounded and laid out in memory like a stored one, so that both are the
        same, and so is all that is computed from them.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.path_of(image)
        if path.is_file() and (known := _stored(path)) is not None:
            return known.to(image.device, torch.float32)
        embedding = encode(image[None]).detach().to("cpu", torch.float16).contiguous()
        with told_as_output(path), atomic_path(path) as temporary:
            # safetensors' own files are for their owner alone, and a cache may be a group's.
            temporary.write_bytes(save({"embedding": embedding}))
        return embedding.to(image.device, torch.float32)


def _stored(path: Path) -> Tensor | None:
    """An embedding that was stored; None where the file is damaged, which is to be made anew."""
    try:
        return load_file(path)["embedding"]
    except (SafetensorError, KeyError):
        return None
