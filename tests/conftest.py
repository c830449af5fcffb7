"""Being here, this file lets every test import the helpers of this folder by name."""

import os

# before torch is imported: the tests' own workers fill the cores, and threads that spin at barriers slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")
