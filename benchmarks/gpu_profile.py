"""Which kernels a training step spends its time in."""

from __future__ import annotations

import time

from gpu_together import Work, set_up, step_without_learning


def profile(config: str, settings: tuple[str, ...], steps: int) -> str:
    """A table of the operations that take longest, over some steps at the configuration's side.

    Args:
        config: path of a configuration.
        settings: that replace others, `a.b=value`.
        steps: as many are recorded, after as many that are not.
    """
    import torch
    from torch.profiler import ProfilerActivity

    from textsam.train.run import batches_at

    run = set_up(Work("profile", config, settings))
    batches = batches_at(run, run.side_px)
    on_gpu = torch.cuda.is_available()
    for _ in range(steps):
        step_without_learning(run, next(batches))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities, record_shapes=True) as recorded:
        for _ in range(steps):
            step_without_learning(run, next(batches))
        if on_gpu:
            torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = recorded.key_averages(group_by_input_shape=True).table(
        sort_by=key, row_limit=40, max_name_column_width=48, max_shapes_column_width=60
    )
    rate = steps * run.config.batch_size / seconds
    return f"{table}\n{rate:.1f} images/s at {run.side_px} px, while being recorded"
