"""Weights and inputs that anyone can draw again, for which the outputs of the reference implementation are known.

`oracles/NAME.keys.txt` has the reference's parameter names and shapes, `oracles/NAME.npz` its outputs on these draws.
"""

import ast
import math
import zlib
from pathlib import Path

import numpy as np
import torch

ORACLES = Path(__file__).parent / "oracles"


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal values that depend on the name, the shape and the seed only."""
    generator = np.random.Generator(np.random.Philox(key=(seed << 32) | zlib.crc32(name.encode())))
    return generator.standard_normal(shape).astype("float32")


def weight(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The value of a parameter or buffer, of a scale at which activations neither vanish nor explode."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    n = draw(name, shape, seed)
    if name.endswith("gamma"):
        value = 0.3 + 0.1 * n
    elif name.endswith("running_var"):
        value = np.exp(0.1 * n)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * n
    elif len(shape) == 1:
        value = 1 + 0.1 * n
    else:
        value = n / np.float32(math.sqrt(math.prod(shape[1:]))) * (4 if name.endswith("fc_cls.weight") else 1)
    return torch.from_numpy(value)


def state_dict(keys_file: str | Path, seed: int) -> dict[str, torch.Tensor]:
    """All weights of a model whose names and shapes are in `keys_file` (a name in `oracles/`, or a path)."""
    lines = (ORACLES / keys_file).read_text().splitlines()
    return {name: weight(name, ast.literal_eval(shape), seed) for name, shape in (line.split("\t") for line in lines)}


def input(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The image tensor, already normalised."""
    return torch.from_numpy(draw("input", shape, seed))
