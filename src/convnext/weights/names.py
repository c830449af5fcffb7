"""Parameter names: what a wrapper puts in front of them, and one table per library that is read in both directions.

Our names are the reference implementation's own, so its checkpoints need no table.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from convnext.errors import ConvNextError

Tensors = dict[str, Tensor]


def some(names: Iterable, limit: int = 8) -> str:
    """The first few names and how many there are in all, for a message."""
    names = [str(name) for name in names]
    rest = f" and {len(names) - limit} more ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def strip_wrappers(tensors: Tensors, prefixes: str = r"module|_orig_mod") -> Tensors:
    """Remove what DDP, `torch.compile` and weight averaging add to a model's names."""
    return {
        re.sub(rf"^(({prefixes})\.)+", "", name): tensor for name, tensor in tensors.items() if name != "n_averaged"
    }


def strip_prefixes(tensors: Tensors) -> Tensors:
    """`strip_wrappers`, and the names of the attribute under which Lightning's and similar modules keep the model."""
    return strip_wrappers(tensors, r"module|_orig_mod|model|m|net")


class NameTable:
    """Pairs (our name, a library's name) of modules or parameters.

    `#` in a pair stands for any number, the same on both sides. A pair also renames everything below the module.
    """

    def __init__(self, library: str, pairs: Iterable[tuple[str, str]]):
        pairs = list(pairs)
        self.library = library
        self._to_ours = [(_pattern(theirs), ours) for ours, theirs in pairs]
        self._from_ours = [(_pattern(ours), theirs) for ours, theirs in pairs]

    def to_ours(self, tensors: Tensors) -> Tensors:
        """Names outside the table stay as they are: whoever loads them reports them as unexpected."""
        return {_rename(name, self._to_ours) or name: tensor for name, tensor in tensors.items()}

    def from_ours(self, tensors: Tensors) -> Tensors:
        """
        Raises:
            ConvNextError: a tensor has no place in the library's model.
        """
        renamed = {name: _rename(name, self._from_ours) for name in tensors}
        homeless = [name for name, new in renamed.items() if new is None]
        if homeless:
            raise ConvNextError(
                f"The {self.library} format has no place for {some(homeless, 4)}: it holds the four-stage ConvNeXt of "
                "the paper only. Save as 'safetensors' or 'official', which hold every model."
            )
        return {str(renamed[name]): tensor for name, tensor in tensors.items()}


def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)") + r"(?=\.|$)")


def _rename(name: str, rules: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, new in rules:
        if found := pattern.match(name):
            return new.replace("#", found[1] if found.groups() else "#") + name[found.end() :]
    return None
