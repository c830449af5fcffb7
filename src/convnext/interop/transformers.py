"""Our classifiers as transformers' models, without remote code: `pipeline("image-classification", ..)`, `Trainer`, the Hub.

`weights.transformers` writes the four-stage ConvNeXt as transformers' own class. This wraps the network itself, so that
isotropic models, steps of the roadmap, finer stems and our preprocessing keep what they compute.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from convnext import models, trained
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.errors import ConvNextError
from convnext.models.block import init_weights
from convnext.models.recompute import recompute_blocks
from convnext.task.inputs import inputs_of

ONE_LABEL, SEVERAL_LABELS = "single_label_classification", "multi_label_classification"
LOSSES = {ONE_LABEL: F.cross_entropy, SEVERAL_LABELS: F.binary_cross_entropy_with_logits}
"""transformers' names of what labels are, and the loss of each."""


class ConvNeXtPaperConfig(PreTrainedConfig):
    """Name and options of the network, as `convnext.create_model` takes them; labels are transformers'."""

    model_type = "convnext_paper"

    network: dict[str, Any] | None = None


class ConvNeXtPaperForImageClassification(PreTrainedModel):
    """A classifier of `convnext`, with transformers' inputs and outputs."""

    config_class = ConvNeXtPaperConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False

    def __init__(self, config: ConvNeXtPaperConfig):
        super().__init__(config)
        options = {**(config.network or {"name": "convnext_tiny"}), "num_classes": config.num_labels}
        self.network = models.build(**options)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint lacks: the head where the number of labels is another one."""
        init_weights(module)

    def gradient_checkpointing_enable(self, *given: Any, **options: Any) -> None:
        recompute_blocks(self.network)

    def gradient_checkpointing_disable(self) -> None:
        recompute_blocks(self.network, enable=False)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool = True, **unused: Any
    ) -> ImageClassifierOutputWithNoAttention | tuple[Tensor, ...]:
        """pixel_values (B, C, H, W), labels (B,), or (B, num_labels) where an image has several -> logits (B, num_labels),
        and the loss if there are labels."""
        logits = self.network(pixel_values)
        loss = None if labels is None else LOSSES[self.config.problem_type or ONE_LABEL](logits, labels)
        found = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]
        return found if return_dict else found.to_tuple()


class ConvNeXtPaperImageProcessor(BaseImageProcessor):
    """Our preprocessing in evaluation.

    Args:
        settings: fields of `convnext.classification.transforms.Preprocess`: size, crop_ratio, mean, std, interpolation.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, settings: dict[str, Any] | None = None, **others: Any):
        super().__init__(**others)
        self.settings = asdict(Preprocess.from_dict(settings) if settings else Preprocess())

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **changes: Any) -> BatchFeature:
        """One image or a list of them, as `Trained.predict` takes them -> pixel_values (B, 3, size, size).

        Raises:
            ConvNextError: an image that cannot be read, or an option of another image processor.
        """
        if asked := [name for name, value in changes.items() if value is not None]:
            raise ConvNextError(
                f"This image processor has no options {', '.join(asked)}; make one with other `settings`."
            )
        transform = eval_transform(Preprocess.from_dict(self.settings))
        pixels = torch.stack([transform(each.image()) for each in inputs_of(images)[0]])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


def transformers_register() -> None:
    """Make saved folders of `to_transformers` known to transformers' Auto classes and pipelines; nothing remote is run."""
    kind = ConvNeXtPaperConfig
    AutoConfig.register(kind.model_type, kind, exist_ok=True)
    AutoModelForImageClassification.register(kind, ConvNeXtPaperForImageClassification, exist_ok=True)
    processors: dict[str, type] = dict.fromkeys(("torchvision", "pil"), ConvNeXtPaperImageProcessor)
    AutoImageProcessor.register(kind, image_processor_classes=processors, exist_ok=True)


def to_transformers(
    model: "str | Path | trained.Trained",
) -> tuple[ConvNeXtPaperForImageClassification, ConvNeXtPaperImageProcessor]:
    """A classifier and its preprocessing for transformers: `pipeline("image-classification", model, image_processor=..)`.

    Both have `save_pretrained(folder)`; `pipeline("image-classification", folder)` opens it after `transformers_register`.

    Args:
        model: what `convnext.load` gives or takes; the result is a copy in fp32 on the CPU.

    Raises:
        ConvNextError: no classifier of this package, or nothing readable is there.
    """
    if not isinstance(model, trained.Trained):
        model = trained.load(model, device="cpu")
    network = getattr(model.module, "config", None)
    if model.spec.pipeline_tag != "image-classification" or model.is_exported or not network:
        raise ConvNextError(
            f"{model.name} is no classifier with weights; give a checkpoint, a run or a name of the catalog."
        )
    transformers_register()
    config = ConvNeXtPaperConfig(
        network={key: value for key, value in network.items() if key != "num_classes"},
        id2label=dict(enumerate(model.classes)),
        label2id={label: i for i, label in enumerate(model.classes)},
        problem_type=ONE_LABEL if model.opened.loaded.metadata.get("thresholds") is None else SEVERAL_LABELS,
    )
    wrapped = ConvNeXtPaperForImageClassification(config).eval()
    wrapped.network.load_state_dict(model.module.state_dict())
    return wrapped, ConvNeXtPaperImageProcessor(asdict(model.preprocess))
