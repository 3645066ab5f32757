"""What each of several processes does in `test_processes`; a launcher starts it.

Arguments: a JSON file with a list of runs {"config", "vit", "stop_after"}. All runs are done one
after the other in one group of processes; beside the file each process writes which keys it saw.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from runs import begin
from test_progressive import begin as begin_vit

from textsam.config import TrainConfig
from textsam.train.order import Key
from textsam.train.run import fit


def main(file: Path) -> None:
    seen: dict[str, list[list[Key]]] = {}
    index = -1
    for job in json.loads(file.read_text(encoding="utf-8")):
        config = TrainConfig.model_validate(job["config"])
        run = (begin_vit if job["vit"] else begin)(config)
        index = run.processes.index
        own = seen.setdefault(config.name, [])
        losses = run.forward.losses

        def spy(keys: Any, items: Any, losses: Any = losses, own: Any = own) -> Any:
            own.append(list(keys))
            return losses(keys, items)

        run.forward.losses = spy  # type: ignore[method-assign]
        fit(run, stop_after=job["stop_after"], progress=False)
    (file.parent / f"seen-{index}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
