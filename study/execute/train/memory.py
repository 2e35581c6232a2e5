"""Whether runs or averages were too many for memory, so that fewer of them may fit."""

from __future__ import annotations

import torch

from study.execute.train.log import raised

OF_A_PROCESSOR = "DefaultCPUAllocator"  # what torch's error, a bare RuntimeError, names where there is no GPU


class NoMemory(Exception):
    """Runs or averages do not fit into memory together; its text says what was missing."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is no memory: torch's of a GPU or of a processor, or Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OF_A_PROCESSOR in raised(error)
