"""Several processes that train one model together, as `accelerate launch` or `torchrun` start them.

The global batch is the configuration's; each process takes its slice of it. Gradients are averaged
by one explicit reduction after the last backward pass of an optimiser step, not by wrapping the
model in DistributedDataParallel: `Forward` calls the model's parts one by one (images, words,
prompts, decoder), so there is no single forward for a wrapper to hook into; parameters that get no
gradient (the heads of the masks that are not made) need no search; and with accumulation there is
one exchange per step without further ado. What this gives up is the overlap of exchange and
backward pass, which matters little for the few million numbers that learn.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor, nn

from textsam.device import choose_device
from textsam.errors import ConfigError

__all__ = ["Processes", "join"]

T = TypeVar("T")

# What torchrun and accelerate set, then what MPI's launchers set.
_COUNT_VARIABLES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Processes:
    """This process among those that train together; by default it is alone.

    Args:
        device: of this process.
        index: of this process, from 0.
        count: of all processes. Above 1 only where the process group of `accelerate` is there.
    """

    def __init__(
        self, device: torch.device | None = None, *, index: int = 0, count: int = 1
    ) -> None:
        self.device = device or torch.device("cpu")
        self.index = index
        self.count = count

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.index == 0

    def check_batch(self, size: int) -> None:
        """Refuse a batch that does not give every process the same number of images.

        Raises:
            ConfigError: `size` is no multiple of the number of processes.
        """
        if size % self.count:
            raise ConfigError(
                f"batch_size is {size} and {self.count} processes train together; give a multiple "
                f"of {self.count}: it is the batch of all processes, not of each"
            )

    def share_of(self, batch: Sequence[T]) -> Sequence[T]:
        """This process's slice of a batch that `check_batch` has passed."""
        each = len(batch) // self.count
        return batch[self.index * each : (self.index + 1) * each]

    def gather(self, values: list[T]) -> list[T]:
        """The values of all processes, in their order; every process gets all of them."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(values)
        return gathered

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors what they are in the main process, in place."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            own = list(tensors)
            # Flat, as the exchange takes nothing but contiguous memory.
            flat = broadcast(torch.cat([tensor.detach().flatten() for tensor in own]))
            for tensor, part in zip(own, flat.split([t.numel() for t in own]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in place.

        A parameter without a gradient anywhere stays without: weight decay would shrink it. One
        that has none here and one elsewhere counts as zero here.
        """
        if self.count == 1:
            return
        from accelerate.utils import reduce

        own = list(parameters)
        has = torch.tensor([float(p.grad is not None) for p in own], device=self.device)
        anywhere = reduce(has, reduction="sum").tolist()
        learning = [p for p, count in zip(own, anywhere, strict=True) if count]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in learning if p.grad is not None]
        flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def join(device_name: str) -> Processes:
    """Join the processes that a launcher started together with this one.

    Args:
        device_name: as in the configuration. With several processes "auto" and "cuda" give each
            its own GPU, "cpu" none.

    Returns:
        This process alone where no launcher says otherwise; accelerate is not imported then.

    Raises:
        ConfigError: accelerate is not installed, the launcher wants another kind of parallelism
            than a slice of the batch each, or the device is one that cannot be shared out.
        DeviceError: the device is not available.
    """
    count = next((int(os.environ[n]) for n in _COUNT_VARIABLES if os.environ.get(n)), 1)
    if count < 2:
        return Processes(choose_device(device_name))
    if device_name not in ("auto", "cuda", "cpu"):
        raise ConfigError(
            f"device is {device_name!r} and {count} processes train together, each on a device of "
            "its own; set device to auto, cuda or cpu"
        )
    if find_spec("accelerate") is None:
        raise ConfigError(
            f"{count} processes were started and accelerate is not installed; "
            'pip install "textsam[train]", or start one process'
        )
    if device_name == "cuda":
        choose_device("cuda")
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    on_cpu = device_name == "cpu" or not torch.cuda.is_available()
    begun = torch.distributed.is_initialized()
    place = PartialState(cpu=on_cpu)
    kind = place.distributed_type
    if kind not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ConfigError(
            f"the launcher asks for {kind.value} with {count} processes; training shares out the "
            "batch and nothing else: launch with torchrun, or with accelerate without DeepSpeed"
        )
    if not begun:
        # Otherwise NCCL complains at the end that nobody has closed the group.
        atexit.register(place.destroy_process_group)
    return Processes(place.device, index=place.process_index, count=place.num_processes)
