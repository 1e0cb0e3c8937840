"""What a worker's threads do on its device before it loads, for others who load as a worker does."""

from __future__ import annotations

import logging

import torch

from cuda_kernels.backend import Support, warm_up
from loaders.devices.pinning import pin_pool
from loaders.errors import LoaderError
from loaders.memory.pool import Pool

logger = logging.getLogger(__name__)


def make_ready(device: str, pool: Pool | None = None) -> Support:
    """Make the driver's context, compile the kernels, and page-lock a prepared pool where the driver lets it.

    Takes seconds on a GPU and nothing on a CPU. Returns who computes the kernels.
    """
    if device == "cpu":
        return warm_up(torch.device(device))
    torch.zeros(1, device=device)
    if pool is not None:
        try:
            pin_pool(pool, device)
        except LoaderError as error:
            logger.warning("the DRAM tier is slower than it could be: %s", error)
    return warm_up(torch.device(device))
