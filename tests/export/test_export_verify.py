"""What the comparison counts, and that a wrong file is found, named, and not left in place."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from convnext.classification.spec import SPEC
from convnext.errors import ConvNextError
from convnext.export import torch_export
from convnext.export.graph import trace
from convnext.export.images import drawn
from convnext.export.run import describe, export
from convnext.task.compare import Tolerance, calls, compare

NAMES = [f"{i}.png" for i in range(13)]


def identity(x):
    """(B, K, 1, 1) -> (B, K): logits that are the picture."""
    return x.flatten(1)


def view(i):
    return nn.functional.one_hot(torch.tensor(i % 3), 3).float()[:, None, None]


def test_calls_of_one_three_and_eight():
    assert [len(part) for part in calls(13)] == [1, 3, 8, 1]
    assert [i for part in calls(13) for i in part] == list(range(13))


def test_equal_outputs():
    found = compare(nn.Flatten(), identity, NAMES, [view, view], list("abc"))
    assert (found.difference, found.agreement, found.images) == (0, 100, 13)
    assert found.failure(Tolerance(0, 100)) is None


def test_one_wrong_picture_is_named():
    def wrong(x):
        y = identity(x).clone()
        if len(x) == 3:
            y[1] += torch.tensor([0.0, 0.0, 5.0])  # of pictures 1, 2, 3 the second, which is of class c
            y[2] += torch.tensor([0.0, 0.0, 2.0])  # and the third, of class a
        return y

    found = compare(nn.Flatten(), wrong, NAMES, [view], list("abc"))
    assert found.difference == 5
    assert found.agreement == pytest.approx(100 * 12 / 13)
    assert found.disagree == ("3.png",)
    assert "2.png, class c: 1 in PyTorch, 6 in the file" in found.failure(Tolerance(1e-4, 100))
    assert "differs in 3.png" in found.failure(Tolerance(None, 99))
    assert found.failure(Tolerance(None, 90)) is None


def test_a_pixel_is_named_in_a_map_of_logits():
    def wrong(x):
        y = x.clone()
        y[0, 1, 2, 3] -= 0.5
        return y

    found = compare(nn.Identity(), wrong, ["p"], [lambda i: torch.zeros(2, 4, 5)], ["sky", "sea"])
    assert found.difference == 0.5
    assert "p, class sea at row 2, column 3: 0 in PyTorch, -0.5 in the file" in found.failure(Tolerance(0.1, 0))


def test_what_is_not_a_number_is_beyond_every_tolerance():
    found = compare(nn.Flatten(), lambda x: identity(x) * torch.nan, ["p"], [view], list("abc"))
    assert found.failure(Tolerance(1e9, 0))


def test_another_shape_is_refused():
    with pytest.raises(ConvNextError, match="another"):
        compare(nn.Flatten(), lambda x: identity(x)[:, :2], ["p"], [view], list("abc"))


def test_tolerances():
    assert SPEC.tolerance("fp32") == Tolerance(1e-4, 100.0)
    assert SPEC.tolerance("int8") == Tolerance(None, 99.0)


def test_a_file_beyond_the_tolerance_is_not_left_and_the_old_one_stays(classifier, tmp_path, monkeypatch):
    file = tmp_path / "m.pt2"
    file.write_text("what was there before")
    metadata = describe(SPEC, classifier, "torch-export", "fp32", size=(64, 64), smallest=64)

    def write(model, aside, metadata):
        with torch.no_grad():
            model = nn.Sequential(model, nn.Threshold(0.0, 0.0))
        model.in_chans = 3
        torch.export.save(trace(model, metadata), aside, extra_files={torch_export.ENTRY: metadata.to_json()})

    monkeypatch.setattr(torch_export, "write", write)
    with pytest.raises(ConvNextError, match="drawn image .* in PyTorch"):
        export(SPEC, classifier, metadata, file, drawn(64, 4), Tolerance(1e-4, 100))
    assert file.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.undo()
    report = export(SPEC, classifier, replace(metadata, batch=3), file, drawn(64, 4), Tolerance(1e-4, 100))
    assert report.bytes == file.stat().st_size > 1000
