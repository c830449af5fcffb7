"""Memory that is free on a device, or that this process may still take on this machine."""

import os
from contextlib import suppress
from pathlib import Path

import torch

GROUP = Path("/sys/fs/cgroup")
INFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> int:
    """Bytes: of the device for a GPU; elsewhere of this machine, or of its control group where that allows less."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_available()]
    with suppress(OSError, ValueError):  # "max" for no limit
        free.append(int((GROUP / "memory.max").read_text()) - int((GROUP / "memory.current").read_text()))
    return max(min(free), 0)


def _available() -> int:
    with suppress(OSError, StopIteration):
        line = next(line for line in INFO.read_text().splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):  # no Linux: half of all that there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 << 30  # Windows has none of these
