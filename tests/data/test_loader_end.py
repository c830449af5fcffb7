"""A process that is left with loaders at its end does not wait for them."""

import subprocess
import sys

SCRIPT = """
import time
import torch
from torch.utils.data import Dataset
from convnext.data.loader import make_loader

class Slow(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        if i:
            time.sleep(600)
        return i

iterator = iter(make_loader(Slow(), [[0], [1], [2], [3]], 2, False, lambda samples: samples))
assert next(iterator) == [0]
iterator.itself = iterator  # a cycle, so that nothing shuts the loaders down before Python ends
type(iterator).__del__ = lambda self: None
print("done", flush=True)
"""


def test_loaders_that_hang_do_not_keep_a_process_from_ending():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "done", "")
