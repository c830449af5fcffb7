"""XML of strangers as a small tree: no document type, no entities, bounded in size, depth and number of elements."""

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from convnext.errors import ConvNextError

MAX_BYTES = 2**26
MAX_DEPTH = 50
MAX_ELEMENTS = 1_000_000


@dataclass
class Element:
    """An element with the line on which it begins."""

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        return [child for child in self.children if child.tag == tag]

    def first(self, tag: str) -> "Element | None":
        return next(iter(self.all(tag)), None)

    def value(self, tag: str) -> str | None:
        """The text of the first child of that tag, without blanks; None without one."""
        found = self.first(tag)
        return None if found is None else found.text.strip()


def read_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        ConvNextError: unreadable, not XML, or more than such a file needs; with the line.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConvNextError(
                f"{path} has {size:,} bytes, more than the {MAX_BYTES:,} that a file of labels may have. Remove the file."
            )
        data = path.read_bytes()
    except OSError as error:
        raise ConvNextError(f"Cannot read {path}: {error.strerror}. Make it readable or remove it.") from None
    top, count = Element("", 0), 0
    open_elements = [top]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_) -> None:
        raise ConvNextError(
            f"{path}, line {parser.CurrentLineNumber}: a document type is not read, because it can expand without end. "
            "Remove the <!DOCTYPE> declaration."
        )

    def start(tag: str, _: dict) -> None:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS or len(open_elements) > MAX_DEPTH:
            raise ConvNextError(
                f"{path}, line {parser.CurrentLineNumber}: there are too many elements for one image. Remove the file."
            )
        element = Element(tag, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def text(part: str) -> None:
        open_elements[-1].text += part

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise ConvNextError(f"{path} is not XML: {error}. Get a fresh copy of it, or remove it.") from None
    return top.children[0]
