"""An exported graph of a detector, used like the detector."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convnext.detection.cascade import Detections, Size
from convnext.detection.detector import image_sizes_of, on_original
from convnext.task.exported import Exported


class ExportedDetector(Exported):
    """An exported detector, which predicts as `detection.Detector` does."""

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        image_sizes: Sequence[Size] | None = None,
        output_sizes: Sequence[Size] | None = None,
        masks: str = "paste",
    ) -> list[Detections]:
        """Arguments and result as those of `Detector.predict`; one image after the other."""
        insides = image_sizes_of(x, image_sizes)
        outsides = image_sizes_of(x, output_sizes or insides)
        detections = []
        for image, inside, size in zip(self.fitting(x.float().cpu()).split(1), insides, outsides, strict=True):
            outputs = self.run(image, torch.tensor(inside))
            each = dict(zip(self.metadata.outputs, outputs, strict=True))
            if masks == "none":
                del each["masks"]
            detections.append(on_original(each, inside, size))
        return detections
