"""Download what a name of the catalog means, with a bar on the terminal."""

from convnext.console import bar_of, stderr


def fetched(name: str) -> str:
    """The path of a name of the catalog, downloaded with a progress bar if need be; anything else as it is."""
    from pathlib import Path

    from convnext.weights import catalog

    if Path(name).expanduser().exists() or name not in catalog.names():
        return name
    from rich.progress import DownloadColumn, TransferSpeedColumn

    console = stderr()
    with bar_of(name, console, True, (DownloadColumn(), TransferSpeedColumn())) as (bar, item):
        return str(catalog.fetch(name, lambda done, total: bar.update(item, completed=done, total=total)))
