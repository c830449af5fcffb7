"""transformers' UperNet with a ConvNext backbone, from our weights under its names: the same logits."""

import pytest
import torch

import oracle
from convnext.segmentation.segmenter import build
from convnext.weights import transformers as backbone_names


def renamed(tensors):
    """Our names -> those of UperNetForSemanticSegmentation."""
    backbone = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    heads = {
        name.replace(".bn.", ".batch_norm.").replace(".conv_seg.", ".classifier."): tensor
        for name, tensor in tensors.items()
        if not name.startswith("backbone.")
    }
    return {**{f"backbone.{name}": t for name, t in backbone_names.from_ours(backbone).items()}, **heads}


@pytest.mark.slow
def test_logits_are_those_of_transformers():
    import transformers

    ours = build("upernet_convnext_atto", num_classes=9, channels=32, auxiliary_channels=16).eval()
    values = {name: oracle.weight(name, tuple(t.shape), seed=5) for name, t in ours.state_dict().items()}
    ours.load_state_dict(values)
    backbone = transformers.ConvNextConfig(
        depths=list(ours.backbone.depths),
        hidden_sizes=list(ours.backbone.dims),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, hidden_size=32, auxiliary_channels=16, num_labels=9)
    ).eval()
    # buffers that transformers does not keep in its state are none here: every name has to be found on both sides
    theirs.load_state_dict(renamed(values), strict=True)
    x = oracle.input((2, 3, 65, 99), seed=1)
    with torch.no_grad():
        logits, expected = ours(x), theirs(x).logits
        maps = theirs.backbone(x).feature_maps
        auxiliary = theirs.auxiliary_head(maps)
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.heads(x)["auxiliary"], auxiliary, atol=1e-4, rtol=0)
