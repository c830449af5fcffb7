"""What a run tells: metrics.jsonl, TensorBoard events, and the terminal (a bar on a terminal, plain lines elsewhere)."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from convnext.files import read_record, to_json

FORMATS = {"loss": ".4f", "lr": ".2e", "grad_norm": ".2f", "images_per_second": ",.0f", "data_wait": ".0%"}
NAMES = {"images_per_second": "img/s", "data_wait": "data wait", "grad_norm": "grad"}
DETAILS = ("_small", "_medium", "_large", "ap50", "ap75")  # in the files, not on the terminal


class Recorder:
    """Records of one run. Every record is a dict with `kind` ("train" or "eval"), `step`, `epoch` and its metrics.

    Only the main process makes one. Records later than `step`, left by a run that was killed after its last checkpoint,
    are removed first: they will come again.
    """

    def __init__(self, folder: Path, console: Console, total_steps: int, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.console = console
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= step]
        self.path.write_text("".join(to_json(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  closed by close()
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self._bar = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]:.1f}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("train", total=total_steps, completed=step, epoch=0.0, text="")
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def record(self, kind: str, step: int, epoch: float, metrics: dict[str, float], eta: float | None = None) -> None:
        """Write one record everywhere. `eta` in seconds is for the plain lines."""
        self._file.write(to_json({"kind": kind, "step": step, "epoch": round(epoch, 4), **metrics}) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)
        shown = {
            name: value
            for name, value in metrics.items()
            if (name in FORMATS or name == "skipped" if kind == "train" else not name.endswith(DETAILS))
        }
        text = "  ".join(f"{NAMES.get(name, name)} {value:{FORMATS.get(name, '.3f')}}" for name, value in shown.items())
        if self._bar and kind == "train":
            self._bar.update(self._task, epoch=epoch, text=text)
        else:
            ending = "" if eta is None else f"  ETA {duration(eta)}"
            self.console.print(
                f"[bold]{kind:5}[/]  epoch {epoch:7.2f}  step {step:6d}  {text}{ending}", highlight=False
            )

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        self._file.close()
        self._events.close()


def read_lines(path: Path) -> list[dict]:
    """The records of a metrics file; a last line that a kill cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(read_record(line))
        except ValueError:
            break
    return records


def duration(seconds: float) -> str:
    """3723 -> "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
