"""`python -m textsam.saliency FOLDER TEXT -o prompts.json`: boxes and points without labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from textsam.errors import TextSAMError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the prompts; 0, or 1 with a message where that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m textsam.saliency", description=__doc__)
    parser.add_argument("folder", help="of images")
    parser.add_argument("text", help="what is wanted, such as 'tumor in a breast ultrasound image'")
    parser.add_argument("--out", "-o", required=True, help="JSON to write")
    parser.add_argument(
        "--method",
        choices=("biomedclip", "boxes"),
        default="biomedclip",
        help="boxes: the most object-like region by LiteMedSAM, whatever the text says",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    options = parser.parse_args(arguments)
    from textsam import weights
    from textsam.saliency.write import Saliency, write_prompts

    try:
        saliency: Saliency
        if options.method == "biomedclip":
            from textsam.saliency.clip import load_clip_saliency

            saliency = load_clip_saliency(weights.resolve("biomedclip"))
        else:
            from textsam.model.build import Architecture, build_model
            from textsam.saliency.boxes import BoxSaliency

            saliency = BoxSaliency(build_model("lite", Architecture(context_depth=1)))
        found = write_prompts(
            options.folder, options.text, options.out, saliency, seed=options.seed
        )
    except TextSAMError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    salient = sum(prompt is not None for prompt in found["images"].values())
    sys.stdout.write(f"{options.out}: {salient} of {len(found['images'])} images\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
