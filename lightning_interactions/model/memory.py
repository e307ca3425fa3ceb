"""Memory of whatever device: when it did not suffice, and giving back what is kept for later."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on whatever device, did not suffice."""
    text = str(error).lower()
    told = "out of memory" in text or "can't allocate memory" in text
    return told or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def free_memory() -> None:
    """Give back to the device what the allocator keeps for later."""
    if torch.cuda.is_available():  # does nothing where no device has been used
        torch.cuda.empty_cache()
