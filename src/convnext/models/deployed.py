"""The copy for inference that `deploy` returns."""

from typing import Any

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.ops.rule import PLAIN, differentiated
from convnext.runtime.graphs import Replays


class Deployed(nn.Module):
    """The inference copy that `deploy` returns; attributes that it does not have itself are the copy's.

    It stays on its device and in its precision, and holds no state to save: save the model that it was made from. It can
    be copied and pickled, to be used on this kind of machine.

    Args:
        graphs: replays its work on a GPU as CUDA graphs.

    Attributes:
        precision: fp32, bf16 or int8, in which it computes.
        why: the reason for that precision.
        dtype: of the activations between its layers.
    """

    def __init__(self, model: nn.Module, precision: str, why: str, dtype: torch.dtype, graphs: Replays | None = None):
        super().__init__()
        self.model, self.precision, self.why, self.dtype, self.graphs = model, precision, why, dtype, graphs
        self.eval()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """x (B, in_chans, H, W) float -> logits of x's type, or the feature maps of a backbone, as the model's."""
        # no decorator: it would import the compiler, seconds of every prediction
        run: Any = torch.compiler.disable(self._run) if torch.compiler.is_compiling() else self._run
        return run(self.model, x, "forward")

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Same as the model's `feature_maps`, without gradients."""
        return self._run(self.model.feature_maps, x, "feature_maps")

    def _run(self, function, x: Tensor, name: str):
        if torch.jit.is_tracing() or not isinstance(x, Tensor) or torch.compiler.is_exporting() or is_fake(x):
            raise ConvNextError(
                "A deployed model cannot be traced or exported: its weights are in an order that only this machine's "
                "operators read. Trace the model that it was made from, or use `convnext export`."
            )
        if differentiated():
            raise ConvNextError("A deployed model has no gradients; differentiate the model that it was made from.")

        def compute(x: Tensor):
            return function(x.to(self.dtype) if x.is_floating_point() else x)

        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            out = self.graphs(compute, x, name) if self.graphs else compute(x)
        return {k: v.to(x.dtype) for k, v in out.items()} if isinstance(out, dict) else out.to(x.dtype)

    def train(self, mode: bool = True) -> "Deployed":
        if mode:
            raise ConvNextError("A deployed model cannot be trained; train the model that it was made from.")
        return super().train(mode)

    def deploy(self, *given, **options) -> "Deployed":
        raise ConvNextError("This model is deployed already; deploy the model that it was made from.")

    def state_dict(self, *args, **kwargs):
        raise ConvNextError("A deployed model has nothing to save; save the model that it was made from.")

    def _apply(self, fn, recurse: bool = True) -> "Deployed":
        """Refuse `to`, `half`, `cuda`, .. unless they change nothing."""
        there = next((p for p in self.parameters()), torch.empty(0, dtype=self.dtype)).detach()[:0]
        found = fn(there)
        if (found.dtype, found.device) != (there.dtype, there.device):
            raise ConvNextError(
                f"A deployed model stays in {self.precision} on {there.device}; move or convert the model that it was made "
                "from, and deploy that."
            )
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def is_fake(x: Tensor) -> bool:
    """True in FakeTensorMode, and for its tensors."""
    if type(x) in PLAIN and not torch._C._len_torch_dispatch_stack():
        return False  # at once: the search takes as long as the checks of five blocks
    from torch._guards import detect_fake_mode

    return detect_fake_mode([x]) is not None
