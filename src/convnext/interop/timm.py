"""Our networks with timm's interface, in timm's registry: `timm.create_model("convnext_tiny.ours", features_only=True)`.

Parameters keep our names, so a checkpoint that timm's scripts write is one of the `official` format here. Weights of every
known format load (`pretrained=True`, `pretrained_cfg_overlay={"file": ..}`). What timm's network has and the paper's has
not is refused: an `output_stride` below 32 and poolings that change the number of channels.

Legend: B batch, H W height and width, C channels, h w of the features.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import timm.models as registry
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest
from convnext.models import convnext, isotropic
from convnext.models.block import check_image, init_weights, make_head
from convnext.models.recompute import recompute_blocks
from convnext.ops.patchify import patches_module
from convnext.weights import catalog
from convnext.weights.load import of_state_dict

torch.fx.wrap("check_image")  # which branches on sizes

TAG = "ours"
POOLS: dict[str, Callable[[Tensor], Tensor]] = {  # (B, h, w, C) -> (B, C)
    "avg": lambda y: y.mean((1, 2)),
    "max": lambda y: y.amax((1, 2)),
    "avgmax": lambda y: 0.5 * (y.mean((1, 2)) + y.amax((1, 2))),
    "": lambda y: y,
}
default_cfgs: dict[str, Any] = {}
"""timm's settings of the names that only we have; `register_model` looks for them here."""


class Face(nn.Module):
    """timm's interface, in front of one of our networks (`steps` and `feature_info` are the network's).

    Args:
        global_pool: avg, max, avgmax, or "" to keep the positions: the outputs are then maps.
        drop_rate: dropout before the classifier.
        output_stride: 32, the paper's; it is there because timm's networks have the option.
        device, dtype: of the parameters.
        options: of the network.
    """

    num_classes: int
    norm: nn.Module
    head: nn.Module
    num_features: int
    feature_info: list[dict[str, Any]]

    def __init__(
        self,
        *sizes: Any,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        output_stride: int = 32,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        super().__init__(*sizes, **options)
        if output_stride != 32:
            raise ConvNextError(
                f"output_stride is {output_stride}; our ConvNeXt has the paper's 32. Take timm's own network for dilated "
                "stages, or stem_stride=2 or 1 for finer maps."
            )
        self.drop_rate, self.global_pool = drop_rate, checked_pool(global_pool)
        self.to(device=device, dtype=dtype)

    @property
    def head_hidden_size(self) -> int:
        """Channels of what the classifier reads."""
        return self.num_features

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the maps (B, h, w, C) that `feature_info` lists, from an image (B, in_chans, H, W)."""
        raise NotImplementedError

    def cut(self, count: int) -> None:
        """Leave out what comes after the first `count` maps."""
        raise NotImplementedError

    # -- forward

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_chans, H, W) -> logits (B, num_classes); features (B, C) for 0 classes; maps of these without pooling."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """x (B, in_chans, H, W) -> the last map (B, C, h, w), before the norm."""
        *_, y = self.steps(x)
        return y.permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map (B, C, h, w) -> outputs; what the classifier reads with `pre_logits`."""
        y = self.norm(POOLS[self.global_pool](x.permute(0, 2, 3, 1)))
        y = F.dropout(y, self.drop_rate, self.training) if self.drop_rate else y
        y = y if pre_logits else self.head(y)
        return y if self.global_pool else y.permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """(the last map, the maps of `indices`), (B, C, h, w) each, or these alone; without any norm, as in timm."""
        if output_fmt != "NCHW":
            raise ConvNextError(f"output_fmt is {output_fmt!r}; the maps are NCHW.")
        taken = chosen(len(self.feature_info), indices)
        maps, y = [], x
        for i, y in enumerate(self.steps(x)):
            if i in taken:
                maps.append(y.permute(0, 3, 1, 2))
            if stop_early and i == max(taken):
                break
        return maps if intermediates_only else (y.permute(0, 3, 1, 2), maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave out what the maps of `indices` do not need; returns these indices, counted from the first map."""
        taken = chosen(len(self.feature_info), indices)
        last = max(taken)
        whole = last == len(self.feature_info) - 1
        self.cut(last + 1)
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_norm or not whole:
            self.norm = nn.Identity()
        if prune_head or not whole:
            self.reset_classifier(0, "")
        return taken

    # -- what training scripts ask for

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place; 0 leaves it out."""
        like = next(self.parameters())
        if global_pool is not None:
            self.global_pool = checked_pool(global_pool)
        self.num_classes, self.head = num_classes, make_head(self.num_features, num_classes)
        self.head.apply(init_weights).to(like.device, like.dtype)

    def no_weight_decay(self) -> set[str]:
        """Nothing by name: timm leaves out every vector anyway, gamma, biases and norms."""
        return set()

    def group_matcher(self, coarse: bool = False) -> Any:
        """Groups of parameters by depth, for `--layer-decay`: the paper's (Section A.2); coarse, one for each stage."""
        if coarse:
            return {"stem": r"^(stem|downsample_layers\.0)\.", "blocks": r"^(?:downsample_layers|stages|blocks)\.(\d+)"}
        network: Any = self
        ids, last = network.layer_decay_ids()
        return lambda name: ids.get(name, last)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks in training and run each again for its gradient, or no longer."""
        recompute_blocks(self, enable)


class TimmConvNeXt(Face, convnext.ConvNeXt):
    """`convnext.ConvNeXt` for timm; its maps are those of the four stages."""

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.num_features = self.dims[-1]
        self.feature_info = [
            {"num_chs": self.channels[name], "reduction": stride, "module": f"stages.{i}"}
            for i, (name, stride) in enumerate(self.strides.items())
        ]

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        return self.stage_outputs(x)

    def cut(self, count: int) -> None:
        self.downsample_layers, self.stages = self.downsample_layers[:count], self.stages[:count]


class TimmIsotropic(Face, isotropic.IsotropicConvNeXt):
    """`isotropic.IsotropicConvNeXt` for timm; its maps are those of every block, as a vision transformer's."""

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.num_features = self.dim
        self.feature_info = [
            {"num_chs": self.dim, "reduction": isotropic.PATCH, "module": f"blocks.{i}"} for i in range(self.depth)
        ]

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        check_image(x, self.in_chans, isotropic.PATCH)
        y = patches_module(self.stem, x.permute(0, 2, 3, 1))
        for block in self.blocks.children():
            y = block(y)
            yield y

    def cut(self, count: int) -> None:
        self.blocks = self.blocks[:count]


def chosen(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` maps: all for None, the last n for a number, those of a list, which counts from the end below 0.

    Raises:
        ConvNextError: there are not as many.
    """
    wanted = range(-(count if indices is None else indices), 0) if not isinstance(indices, Sequence) else indices
    if not wanted or not all(-count <= i < count for i in wanted):
        raise ConvNextError(f"There are {count} maps, 0 to {count - 1}; {indices!r} are not among them.")
    return [i % count for i in wanted]


def checked_pool(name: str) -> str:
    """The name; raises ConvNextError if there is no such pooling here."""
    if name not in POOLS:
        known = ", ".join(repr(pool) for pool in POOLS)
        raise ConvNextError(f"There is no global_pool {name!r} here.{nearest(name, POOLS)} Known are {known}.")
    return name


# -- the registry


def build(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """The model of that name, as timm builds its own from a name and options."""
    if name in convnext.SIZES:
        size = convnext.SIZES[name]
        kind, sizes, taps = TimmConvNeXt, {"depths": size.depths, "dims": size.dims}, {"out_indices": (0, 1, 2, 3)}
    else:
        size = isotropic.SIZES[name]
        kind, sizes, taps = TimmIsotropic, {"depth": size.depth, "dim": size.dim}, {"out_indices": 3}
        options.setdefault("layer_scale_init_value", size.layer_scale_init_value)
    # the maps are not outputs of children called one after the other, so that timm has to ask for them
    given = {
        "pretrained_filter_fn": lambda tensors, model: of_state_dict(tensors),
        "feature_cfg": {**taps, "feature_cls": "getter"},
    }
    return build_model_with_cfg(kind, name, pretrained, **given, **{**sizes, **options})


def settings(name: str) -> dict[str, Any]:
    """timm's settings by `name.tag`: `ours`, with the weights of the paper where there are any, and one for each other file
    of the catalog, such as `ours_in22k_in1k_384`."""
    plain = name in convnext.SIZES
    common = {
        "first_conv": "downsample_layers.0.0" if plain else "stem",
        "classifier": "head",
        "license": "mit",
        "paper_name": "A ConvNet for the 2020s",
        "paper_ids": "arXiv:2201.03545",
        "origin_url": "https://github.com/facebookresearch/ConvNeXt",
    }
    found = {f"{name}.{TAG}": {**common, "pool_size": (7, 7) if plain else (14, 14)}}
    for entry in (entry for entry in catalog.ENTRIES if entry.model == name):
        size, tag = entry.preprocess["size"], entry.name.partition(".")[2]
        cells = size // (32 if plain else isotropic.PATCH)
        found[f"{name}.{TAG}" if tag == "in1k" else f"{name}.{TAG}_{tag}"] = {
            **common,
            "url": catalog.BASE + entry.file,
            "num_classes": entry.num_classes,
            "input_size": (3, size, size),
            "pool_size": (cells, cells),
            "crop_pct": entry.preprocess["crop_ratio"],
            "crop_mode": "squash" if entry.preprocess["crop_ratio"] == 1 else "center",
        }
    return found


def timm_register() -> list[str]:
    """Make our networks known to timm, beside its own: `timm.create_model("convnext_tiny.ours", pretrained=True)`.

    Names without a tag, and with timm's tags, stay timm's. A second call changes nothing.

    Returns:
        The names, with their tags; `timm.list_models("*.ours*", include_tags=True)` has them too.
    """
    found = []
    for name in (*convnext.SIZES, *isotropic.SIZES):
        cfgs = settings(name)
        found += cfgs
        theirs = registry.model_entrypoint(name) if registry.is_model(name) else None
        if getattr(theirs, "ours", False):
            continue
        known = default_cfgs if theirs is None else vars(sys.modules[theirs.__module__])["default_cfgs"]
        ours = generate_default_cfgs(cfgs)[name]
        if theirs is None:
            known[name] = ours
        else:
            known[name].cfgs.update(ours.cfgs)
            known[name].tags.extend(ours.tags)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Overwriting", UserWarning)
            register_model(entrypoint(name, theirs))
    return found


def entrypoint(name: str, theirs: Callable[..., nn.Module] | None) -> Callable[..., nn.Module]:
    """The function that timm calls for a name: ours for our tags, else theirs."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        given = options.get("pretrained_cfg")
        tag = given.get("tag") if isinstance(given, dict) else getattr(given, "tag", given)
        if theirs is not None and not (tag or "").startswith(TAG):
            return theirs(pretrained=pretrained, **options)
        return build(name, pretrained, **options)

    create.__name__, create.ours = name, True  # pyright: ignore[reportFunctionMemberAccess]
    return create if theirs is None else wraps(theirs)(create)
