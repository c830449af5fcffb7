"""Labels in colours: what a pixel and the legend show, and that the files hold the labels themselves."""

import numpy as np
import pytest
from PIL import Image

from convnext.errors import ConvNextError
from convnext.report.segmentation import colour_mask, draw_sample, overlay, palette, save_labels

NAMES = ["sky", "sea", "ship"]


@pytest.fixture
def labels():
    """40 rows, 60 columns: sky above, sea below, a ship in it, a corner without a label."""
    labels = np.zeros((40, 60), np.uint8)
    labels[20:], labels[25:35, 10:30], labels[:10, :12] = 1, 2, 255
    return labels


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_palette_is_stable_and_apart():
    colours = palette(255)
    assert colours.dtype == np.uint8
    assert colours.shape == (255, 3)
    for k in (1, 3, 150):
        np.testing.assert_array_equal(palette(k), colours[:k])
    assert len(np.unique(colours, axis=0)) == 255

    def distance(a, b):
        """An approximation of how different people find two colours that knows nothing of CIELAB ("redmean")."""
        a, b = a.astype(float), b.astype(float)
        red = (a[..., 0] + b[..., 0]) / 2
        weights = np.stack([2 + red / 256, np.full_like(red, 4), 2 + (255 - red) / 256], -1)
        return np.sqrt((weights * (a - b) ** 2).sum(-1))

    def nearest(k):
        apart = distance(colours[:k, None], colours[None, :k])
        return (apart + 1e9 * np.eye(k)).min()

    assert nearest(8) > 150
    assert nearest(20) > 80
    assert nearest(150) > 25  # colours at random come as near as 5
    for grey in (0, 255):
        assert distance(colours, np.full((255, 3), grey)).min() > 60


def test_colour_mask(labels):
    image = colour_mask(labels, np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]))
    assert image.size == (60, 40)
    shown = np.asarray(image)
    assert shown[15, 40].tolist() == [1, 2, 3]
    assert shown[22, 5].tolist() == [4, 5, 6]
    assert shown[30, 20].tolist() == [7, 8, 9]
    assert shown[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(np.asarray(colour_mask(labels))[30, 20], palette()[2])


def test_overlay(labels, photo):
    drawn = overlay(photo, labels, NAMES, alpha=0.25)
    shown, original = np.asarray(drawn).astype(float), np.asarray(photo).astype(float)
    assert drawn.width > photo.width
    np.testing.assert_array_equal(shown[:9, :11], original[:9, :11])  # no label: the picture itself
    blend = 0.75 * original[15, 40] + 0.25 * palette()[0]
    np.testing.assert_allclose(shown[15, 40], blend, atol=0.51)
    np.testing.assert_array_equal(shown[19, 40], palette()[0])  # the last row of sky is an edge, in full colour
    alone = overlay(photo, labels, NAMES, alpha=0.25, legend=False)
    assert alone.size == photo.size
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(drawn)[:40, :60])


def test_legend(labels, photo):
    """Swatches of the classes that are there, the largest first, beside the picture and not over it."""
    small = overlay(photo, labels, NAMES)
    large = overlay(photo.resize((600, 720)), np.kron(labels, np.ones((18, 10), np.uint8)), NAMES)
    absent = overlay(photo, np.zeros_like(labels), NAMES)
    assert np.bincount(labels.ravel()).tolist()[:3] == [1080, 1000, 200]
    for drawn, width in ((small, 60), (large, 600)):
        beside = np.asarray(drawn)[:, width:]
        sky, sea, ship = (np.flatnonzero((beside == palette()[k]).all(-1).any(1)) for k in (0, 1, 2))
        assert min(len(sky), len(sea), len(ship)) >= 12
        assert sky.max() < sea.min()
        assert sea.max() < ship.min()
        assert (beside[ship.max() + 4 :] < 100).any()  # below the classes, the text of "no label"
    assert large.height == 720
    assert small.height > 40  # so low a picture gets a taller sheet
    assert not (np.asarray(absent)[:, 60:] == palette()[1]).all(-1).any()


def test_many_classes_get_columns():
    labels = np.arange(150, dtype=np.uint8).repeat(20).reshape(50, 60)
    drawn = np.asarray(overlay(Image.new("RGB", (60, 50)), labels, [f"class {k}" for k in range(150)]))
    for k in range(150):
        assert (drawn[:, 60:] == palette()[k]).all(-1).sum() >= 12 * 12, k
    assert (drawn[:, -4:] == 255).all()  # no text is cut off


def test_a_long_name_is_shortened(photo):
    label = np.zeros((40, 60), np.uint8)
    short, long = (overlay(photo, label, [name]) for name in ("x" * 29, "x" * 500))
    assert long.width == short.width < 400


def test_overlay_errors(labels, photo):
    with pytest.raises(ConvNextError, match="The image is 60 x 40 and the labels 40 x 60 pixels"):
        overlay(photo, labels.T, NAMES)
    with pytest.raises(ConvNextError, match="Label 2 has no name: there are 2"):
        overlay(photo, labels, NAMES[:2])


def test_saved_labels_are_values_and_colours(tmp_path):
    labels = np.arange(256).reshape(16, 16)  # int64, as a model's argmax gives it
    path = save_labels(labels, tmp_path / "new" / "labels.png")
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(colour_mask(labels)))


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.array([[256]]), np.array([[-1]])])
def test_labels_must_be_labels(tmp_path, labels):
    with pytest.raises(ConvNextError, match="Labels must be whole numbers of 0 to 255, in rows and columns"):
        save_labels(labels, tmp_path / "labels.png")


def test_sample(tmp_path, labels, photo):
    tall = (photo.resize((30, 80)), np.ones((80, 30), np.uint8))
    path = draw_sample([(photo, labels), tall, (photo, labels)], tmp_path / "new" / "sample.png", NAMES, side=120)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert sheet.shape[0] == 2 * 120 + 3 * 16
    np.testing.assert_array_equal(
        sheet[16:136, 16:196], np.asarray(photo.resize((180, 120), Image.Resampling.BILINEAR))
    )
    coloured = [(sheet == palette()[k]).all(-1) for k in (0, 1, 2)]
    assert all(found.any() for found in coloured)
    assert coloured[1][136:].any()  # the third, below
