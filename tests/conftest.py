"""Being here, this file lets every test import the helpers of this folder by name."""

import os
import tempfile
from pathlib import Path

# before torch is imported: the tests' own workers fill the cores, and threads that spin at barriers slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")
# no test writes to the user's own
os.environ.setdefault("CONVNEXT_CACHE", str(Path(tempfile.gettempdir()) / "convnext-tests-cache"))

# minutes each, so they begin while there is other work to run beside them, not at the end, when nothing is left
LONG = ("cli/test_dense.py", "models/test_fused.py", "cli/test_train.py")


def pytest_sessionstart():
    """One backward pass before all else, so that forks of this process can train.

    A fake mode makes a machine without a GPU look as if it had one; a first backward pass after it starts threads for that
    device, and PyTorch then refuses every backward pass in a fork.
    """
    import torch

    torch.ones(1, requires_grad=True).sum().backward()


def pytest_collection_modifyitems(items):
    def place(item) -> int:
        return next((i for i, name in enumerate(LONG) if item.nodeid.startswith(f"tests/{name}")), len(LONG))

    items.sort(key=place)  # stable: all else stays as it was
