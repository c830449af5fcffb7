"""Files that look like labels of a kind that is not read, so that a person hears of them before training."""

import os
from collections import defaultdict
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS
from convnext.data.look import some

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml")
READ = ("classes.json", "classes.txt")
MOST = 100_000  # files that are looked at


def unread_labels(root: Path) -> list[str]:
    """Describe the files below `root` that look like labels: tables, data.yaml, XML and text beside or for images.

    Several of one folder and ending are one entry, such as `labels/*.txt (120 files)`.
    """
    found, seen = defaultdict(list), 0
    for at, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stems = {os.path.splitext(name)[0] for name in files if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS}
        for name in files:
            stem, ending = os.path.splitext(name)
            beside = stem in stems or "labels" in Path(at).relative_to(root).parts
            if name in READ or name.startswith("."):
                continue
            if ending.lower() in TABLES or (ending.lower() == ".txt" and beside):
                found[os.path.relpath(at, root), ending].append(name)
        seen += len(files)
        if seen > MOST:
            break
    return [
        os.path.normpath(os.path.join(folder, names[0] if len(names) == 1 else f"*{ending} ({len(names):,} files)"))
        for (folder, ending), names in sorted(found.items())
    ]


def unread_sentence(root: Path) -> str:
    """Sentence that names `unread_labels`, with a leading space; empty without any."""
    unread = unread_labels(root) if root.is_dir() else []
    return f" Files that look like labels are not read: {some(unread)}." if unread else ""
