"""Python sequences of (image, target) as data: `convnext.train(data=[(image, target), ...])`.

A recipe names its data by a text, so a sequence gets a name made of its content, under which it is found while somebody
holds it. Images that are files are named by their paths below the folder that has all of them, as if the folder had been
read; others by a digest of their pixels. So the same images are held out wherever they come from.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from PIL import Image

from convnext.data.formats.content import Content, Item, Object, natural
from convnext.data.formats.pictures import Pictures, Source, size_of
from convnext.data.images import ImageError, open_image
from convnext.data.memory import from_memory
from convnext.errors import ConvNextError, nearest

PREFIX = "sequence:"
ITEM = "an item is (image, target): a path, PIL image, bytes or array (H, W, 3) uint8, and what is in it"
MOST_CLASSES = 1_000_000
"""Above the largest number that a target without class names may be."""


class Labelled:
    """A sequence of (image, target), with the names of its classes.

    Args:
        items: a list, or anything with `len` and `[i]` that gives the same each time. Images: paths, PIL images, bytes of
            files, arrays (H, W, 3) uint8, tensors (3, H, W). Targets: a class name or number, or a list of them where images
            have several; for detectors {"boxes": (n, 4) x1 y1 x2 y2 in pixels, "labels": n names or numbers, and
            "masks": (n, H, W) bool or nothing}; for segmenters (H, W) whole numbers, 255 ignored.
        classes: class names, in the order of the numbers. Without: names in their order; of numbers, "0" to the largest.

    Raises:
        ConvNextError: an item is something else; the message has its position.
    """

    def __init__(self, items: Any, classes: Sequence[str] | None = None):
        if isinstance(items, Iterator):
            items = list(items)
        if isinstance(items, str | bytes | Mapping) or not (
            hasattr(items, "__len__") and hasattr(items, "__getitem__")
        ):
            raise ConvNextError(f"Data of the type {type(items).__name__} is not read; give a list: {ITEM}.")
        self._items = tuple(items) if isinstance(items, list | tuple) else items
        if not len(items):
            raise ConvNextError(f"The sequence of data is empty. Give it items: {ITEM}.")
        self.classes = None if classes is None else [str(name) for name in classes]
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ConvNextError("Two class names of the data are equal: rename one.")
        self.files: list[Path | None] = []
        self.targets: list[Any] = []
        digests: list[str] = []
        for i in range(len(items)):
            image, target = self.item(i)
            path = Path(os.path.abspath(os.path.expanduser(image))) if isinstance(image, str | os.PathLike) else None
            digests.append("" if path else _digest_of(image, i))
            if path and not path.is_file():
                raise ConvNextError(f"Item {i} of the data: there is no file {os.fspath(image)!r}. Correct the path.")
            self.files.append(path)
            self.targets.append(target)
        self.names, self.repeated = _names(self.files, digests)
        digest = hashlib.blake2b("\0".join(self.classes or ()).encode("utf-8", "surrogateescape"), digest_size=8)
        for name, target in zip(self.names, self.targets, strict=True):
            digest.update(b"\1" + name.encode("utf-8", "surrogateescape"))
            _update(digest, target)
        self.key = f"{PREFIX}{digest.hexdigest()}"

    def item(self, i: int) -> tuple[Any, Any]:
        """The image and the target at a position. Raises ConvNextError: it is no pair."""
        item = self._items[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = (
                f"a {type(item).__name__} of length {len(item)}"
                if isinstance(item, tuple | list)
                else type(item).__name__
            )
            raise ConvNextError(f"Item {i} of the data is {found}; {ITEM}.")
        return item[0], item[1]

    def __len__(self) -> int:
        return len(self.names)


_held: "WeakValueDictionary[str, Labelled]" = WeakValueDictionary()


def hold(data: Any) -> Labelled | None:
    """A sequence under a name while the caller keeps what is returned; None for a path or a name.

    Raises:
        ConvNextError: as `Labelled`.
    """
    if isinstance(data, str | os.PathLike):
        return None
    labelled = data if isinstance(data, Labelled) else Labelled(data)
    return _held.setdefault(labelled.key, labelled)


def hold_all(fields: dict[str, Any], names: Sequence[str]) -> list[Labelled]:
    """Replace sequences in some fields by their names, and paths by texts, in place; the sequences, to be kept."""
    kept = []
    for name in names:
        if fields.get(name) is not None:
            labelled = hold(fields[name])
            fields[name] = os.fspath(fields[name]) if labelled is None else labelled.key
            kept += [labelled] if labelled else []
    return kept


def is_sequence(data: str) -> bool:
    """True for the name of a Python sequence."""
    return data.startswith(PREFIX)


def held(data: str) -> Labelled:
    """The sequence of a name. Raises ConvNextError: nobody holds it any more, or it was another process's."""
    found = _held.get(data)
    if found is None:
        raise ConvNextError(
            f"The data {data!r} was a Python sequence, which is not here any more. Give labelled images: data=[(image, target), "
            "...] in Python, or --data."
        )
    return found


def read_sequence(labelled: Labelled, model_classes: list[str] | None = None) -> Content:
    """The images with their labels or objects.

    Args:
        model_classes: the classes of a model that is to be evaluated, in which numbers count where the data names none.

    Raises:
        ConvNextError: a target is something else than those before it, or of no class; the message has its position.
    """
    words = [_words(target, i) for i, target in enumerate(labelled.targets)]
    classes = _classes(labelled, words, model_classes)
    place = {name: k for k, name in enumerate(classes)}
    several = any(isinstance(target, list | tuple | set | frozenset) for target in labelled.targets)
    items = []
    for i, (target, found) in enumerate(zip(labelled.targets, words, strict=True)):
        labels = [_label(word, classes, place, i) for word in found]
        file, name = labelled.files[i], labelled.names[i]
        item = Item(name, file or Path(name), where=f"item {i} of the data", row=-1 if file else i)
        if isinstance(target, Mapping):
            item.size = size_of(file or Held(labelled).source(i))
            item.objects = _objects(target, labels, item.size, i)
        else:
            item.labels = tuple(sorted(set(labels)))
        items.append(item)
    problems = [f"Item {i} is the same image as item {k}." for i, k in labelled.repeated]
    return Content("Python sequence", Path(labelled.key), classes, items, several, [], problems, Held(labelled))


class Held(Pictures):
    """The images of a sequence that are in memory."""

    def __init__(self, labelled: Labelled):
        self._labelled = labelled

    def source(self, row: int) -> Source:
        image = self._labelled.item(row)[0]
        if isinstance(image, bytes | Image.Image):
            return image
        try:
            return from_memory(image)
        except ConvNextError as error:
            raise ImageError(f"Item {row} of the data: {error}") from None

    def state(self, row: int) -> tuple[int, ...]:
        return (int(self._labelled.names[row].partition("-")[0], 16),)


def _digest_of(image: Any, i: int) -> str:
    """Digest of an image in memory: of the bytes of a file, else of the pixels."""
    try:
        if isinstance(image, bytes):
            with open_image(image):
                pass
            return hashlib.blake2b(image, digest_size=8).hexdigest()
        rgb = from_memory(image)
    except ConvNextError as error:
        raise ConvNextError(f"Item {i} of the data: {error}") from None
    return hashlib.blake2b(rgb.tobytes(), digest_size=8, salt=b"%dx%d" % rgb.size).hexdigest()


def _names(files: list[Path | None], digests: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Stable ids: paths below the folder that has all files, and digests; what is there twice is numbered, and listed."""
    paths = [path for path in files if path]
    base = os.path.commonpath([path.parent for path in paths]) if paths else ""
    names: list[str] = []
    places: dict[str, list[int]] = {}
    for i, (path, digest) in enumerate(zip(files, digests, strict=True)):
        name = Path(os.path.relpath(path, base)).as_posix() if path else digest
        same = places.setdefault(name, [])
        same.append(i)
        names.append(name if len(same) == 1 else f"{name}-{len(same)}")
    return names, [(i, same[0]) for same in places.values() for i in same[1:]]


def _update(digest: Any, value: Any) -> None:
    """Add a target to a digest."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(f"\2{key}".encode("utf-8", "surrogateescape"))
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(b"\3%d" % len(value))
        for each in value:
            _update(digest, each)
    elif isinstance(value, set | frozenset):
        _update(digest, sorted(value, key=str))
    elif isinstance(value, os.PathLike | str) or not (isinstance(value, Image.Image) or hasattr(value, "__array__")):
        digest.update(f"\4{value}".encode("utf-8", "surrogateescape"))
    else:
        array = np.asarray(value)
        digest.update(f"\5{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())


def _words(target: Any, i: int) -> list[str | int]:
    """The class names or numbers in a target: one, several, or those of objects."""
    several: Any = target
    if isinstance(target, Mapping):
        several = target.get("labels")
        several = several.tolist() if several is not None and hasattr(several, "tolist") else several
        if not isinstance(several, list | tuple) or "boxes" not in target:
            raise ConvNextError(
                f'Item {i} of the data: a target with objects is {{"boxes": (n, 4) x1 y1 x2 y2, "labels": [name, ..]}}.'
            )
    words = list(several) if isinstance(several, list | tuple | set | frozenset) else [several]
    return [_word(word, i) for word in words]


def _word(word: Any, i: int) -> str | int:
    if getattr(word, "ndim", None) == 0 and hasattr(word, "item"):  # of NumPy or PyTorch
        word = word.item()
    if isinstance(word, str) and word.strip():
        return word
    if isinstance(word, int) and not isinstance(word, bool) and word >= 0:
        return word
    shape = getattr(word, "shape", ())
    what = f"an array of shape {tuple(shape)}" if shape else repr(word)[:80]
    raise ConvNextError(
        f"Item {i} of the data: {what} is no label; it must be a class name, its number from 0, or a list of them where images "
        "have several."
    )


def _classes(labelled: Labelled, words: list[list[str | int]], model_classes: list[str] | None) -> list[str]:
    """Class names of the data. Raises ConvNextError: names and numbers are mixed, or a number is beyond reason."""
    flat = [(word, i) for i, found in enumerate(words) for word in found]
    if not flat:
        raise ConvNextError("No item of the data has a label. Give each its class.")
    first = next(iter(flat))
    for word, i in flat:
        if isinstance(word, str) != isinstance(first[0], str) and labelled.classes is None:
            raise ConvNextError(
                f"Item {i} of the data has the label {word!r}, and item {first[1]} {first[0]!r}: give names, or numbers, to all."
            )
    if labelled.classes is not None:
        return labelled.classes
    numbers = [word for word, _ in flat if isinstance(word, int)]
    if not numbers:
        names = {str(word) for word, _ in flat}
        return model_classes if model_classes and names <= set(model_classes) else natural(names)
    if model_classes:
        return model_classes
    if max(numbers) >= MOST_CLASSES:
        raise ConvNextError(
            f"The data has the label {max(numbers)}; numbers count classes from 0, below {MOST_CLASSES:,}."
        )
    return [str(number) for number in range(max(numbers) + 1)]


def _label(word: str | int, classes: list[str], place: dict[str, int], i: int) -> int:
    if isinstance(word, str):
        if word not in place:
            raise ConvNextError(f"Item {i} of the data: there is no class {word!r}.{nearest(word, classes)}")
        return place[word]
    if word >= len(classes):
        raise ConvNextError(
            f"Item {i} of the data: there is no class {word}; the names are of 0 to {len(classes) - 1}."
        )
    return word


def _objects(target: Mapping[str, Any], labels: list[int], size: tuple[int, int] | None, i: int) -> list[Object]:
    """Objects of a target {"boxes", "labels", "masks"}."""
    try:
        boxes = np.asarray(target["boxes"], dtype=np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        boxes = np.full((1, 4), np.nan)
    good = len(boxes) == len(labels) and np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all()
    if not good:
        raise ConvNextError(
            f"Item {i} of the data: its boxes must be {len(labels)} times x1, y1, x2, y2 in pixels, one for each label."
        )
    masks = target.get("masks")
    if masks is not None:
        masks = np.asarray(masks)
        if masks.shape != (len(labels), *(size or ())):
            raise ConvNextError(
                f"Item {i} of the data: its masks have the shape {masks.shape}, and must be (objects, height, width): "
                f"{(len(labels), *(size or ()))}."
            )
    found = []
    for k, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
        runs = None if masks is None else _runs(masks[k] > 0)
        area = None if masks is None else float((masks[k] > 0).sum())
        found.append(Object(label, (x1, y1, x2 - x1, y2 - y1), runs, area=area))
    return found


def _runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of a mask (H, W): down the columns, zeros first."""
    flat = np.concatenate([[False], mask.T.ravel()])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}
