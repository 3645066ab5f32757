"""What a training on a GPU machine brings back: an adapter folder in one file.

Few files come back from such a machine, and none that is large. So an adapter is stored in half
precision, as it is shipped, with its log, and packed: 12 MB for `lite`. Unpacked it is an adapter
folder that loads, to be evaluated, averaged or calibrated:

    mkdir -p runs/NAME/best && tar -xzf NAME.tar.gz -C runs/NAME/best
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def bring_back(run: Path, target: Path, facts: Mapping[str, Any]) -> Path | None:
    """Pack the adapter of a training.

    Args:
        run: its folder, with `log.csv` and `best/`, or `last/` where nothing was validated yet.
        target: `.tar.gz` to write.
        facts: for `facts.json` beside the adapter.

    Returns:
        `target`, or None where there is no adapter yet.
    """
    import torch

    from textsam.adapters import TENSORS_FILE, read_adapter_config
    from textsam.checkpoint import save_adapter
    from textsam.io.atomic import atomic_path
    from textsam.tensors import load_tensors

    kept = [run / name for name in ("best", "last") if (run / name / TENSORS_FILE).is_file()]
    if not kept:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        record, tensors = read_adapter_config(kept[0]), load_tensors(kept[0] / TENSORS_FILE)
        save_adapter(folder, record, tensors, dtype=torch.float16)
        if (run / "log.csv").is_file():
            shutil.copy(run / "log.csv", folder)
        text = json.dumps({"from": kept[0].name, **facts}, indent=1)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
        with atomic_path(target) as temporary, tarfile.open(temporary, "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name)
    print(f"{target.name}: {kept[0].name}, {target.stat().st_size / 2**20:.1f} MiB", flush=True)
    return target
