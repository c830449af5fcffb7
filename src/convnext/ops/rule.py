"""The one rule for when a faster form may stand in for PyTorch's own operations, and for modules.

A form computes the same numbers, but it is not the same operations: whoever looks at the operations (a trace, a
function transform, forward-mode differentiation, a tensor class of its own) sees something else, and whoever changed or
watches a module (a hook, an adapter, a pruned or parametrized weight) is passed over. So a form is taken where nobody
looks (`observed`) and for modules that are as they were built (`intact`); otherwise the parts run.
"""

from collections.abc import Callable
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

PLAIN = Tensor, nn.Parameter
OPTIONAL = *PLAIN, type(None)
NAMES = {"weight", "bias"}
M = TypeVar("M", bound=nn.Module)


def constant(function: Callable) -> Callable:
    """Mark a function whose result torch.compile takes as a constant.

    `torch.compiler.assume_constant_result` does the same, but importing the compiler takes seconds of every command.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def observed(counted: bool = False) -> bool:
    """True if something here and now handles each operation by itself, and must be given PyTorch's own.

    Args:
        counted: the operators in question have formulas for `torch.utils.flop_counter`, which may then watch.
    """
    return (
        transformed()
        or torch._C._is_tracing()  # torch.jit.trace, TensorBoard's add_graph, fvcore
        or (torch._C._len_torch_dispatch_stack() > 0 and not (counted and only_counters()))
        or (torch._C._len_torch_function_stack() > 0 and not only_devices())
    )


@constant
def transformed() -> bool:
    """True inside a transform of torch.func (vmap, grad, jvp, ..) or forward-mode differentiation."""
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def differentiated() -> bool:
    """True inside torch.func.grad and its like."""
    return any(level.key() == _functorch.TransformType.Grad for level in _functorch.get_interpreter_stack() or ())


def only_counters() -> bool:
    """True if all dispatch modes count FLOPs."""
    return all(type(mode).__module__ == "torch.utils.flop_counter" for mode in _get_current_dispatch_mode_stack())


def only_devices() -> bool:
    """True if all function modes choose a device for new tensors (`torch.device` as a context, set_default_device)."""
    modes = (torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack()))
    return all(type(mode).__module__ == "torch.utils._device" for mode in modes)


def unwatched(module: nn.Module) -> bool:
    """True if a call of the module is its class's `forward` and nothing else: no hook, global ones included, no override."""
    state = module.__dict__
    return not (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or global_hooks()
    )


@constant
def global_hooks() -> bool:
    """True if there are hooks on all modules of the process."""
    return bool(_has_any_global_hook())


def intact(module: nn.Module, kind: type[M], biased: bool = False) -> TypeGuard[M]:
    """True if the module is exactly a `kind` (nn.Conv2d, nn.Linear, nn.LayerNorm), unwatched, with plain parameters.

    This excludes subclasses, parametrizations, adapters that wrap it, pruned, quantized and distributed weights.

    Args:
        biased: it must have a bias.
    """
    if type(module) is not kind or not unwatched(module):
        return False
    own = module.__dict__["_parameters"]  # without nn.Module.__getattr__, which takes longer than all else here
    return (
        own.keys() == NAMES and type(own["weight"]) in OPTIONAL and type(own["bias"]) in (PLAIN if biased else OPTIONAL)
    )


def geometry(conv: nn.Conv2d) -> tuple:
    """(kernel size, stride, padding, dilation, padding mode): everything about a convolution but its weights and groups."""
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode
