"""Write `parity_vit_b.npz`: a reduced copy of what our `vit_b` computes on name-seeded weights.

Run after parity with the authors' numbers holds: `python tests/golden/make_golden.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "parity_vit_b.npz"


def phantom() -> NDArray[np.uint8]:
    """A 200×320 RGB image made by formula: waves, a bright ellipse and a dark one."""
    y, x = np.mgrid[:200, :320].astype(np.float64)
    image = 90 + 40 * np.sin(x / 17) * np.cos(y / 23)
    image[((x - 210) / 60) ** 2 + ((y - 90) / 40) ** 2 < 1] += 80
    image[((x - 80) / 30) ** 2 + ((y - 130) / 45) ** 2 < 1] -= 60
    channels = [image, np.roll(image, 5, 1), 255 - image]
    return np.clip(np.round(np.stack(channels, -1)), 0, 255).astype(np.uint8)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from name_seeded import seeded_vit_b
    from passes import encode, run

    from textsam import weights
    from textsam.model.text_encoders import load_tokenizer

    encoded = encode(seeded_vit_b(load_tokenizer(weights.resolve("minilm"))), phantom())
    numbers: dict[str, NDArray[np.generic]] = {
        "text_features": encoded.text_features[:, ::8].numpy(),
        "embedding": encoded.embedding[:, ::32, ::8, ::8].numpy(),
    }
    for frame, authors_frame in (("official_frame", True), ("model_frame", False)):
        passes, sparse = run(encoded, authors_frame=authors_frame)
        for i, (result, tokens) in enumerate(zip(passes, sparse, strict=True)):
            numbers[f"{frame}_sparse{i}"] = tokens[..., ::8].numpy()
            numbers[f"{frame}_lowres{i}"] = result.logits[..., ::16, ::16].numpy()
            numbers[f"{frame}_iou{i}"] = result.iou.numpy()
            numbers[f"{frame}_mask{i}"] = np.packbits(result.masks[0])
            share = result.masks[0].mean()
            print(f"{frame} pass {i}: {share:.1%} of the image, IoU {float(result.iou):.4f}")
    np.savez_compressed(GOLDEN, **numbers)
    print(f"wrote {GOLDEN.name}, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
