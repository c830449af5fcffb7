"""The records of a run: metrics.jsonl, TensorBoard events, and a bar on the terminal or plain lines elsewhere."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from convnext.console import bar_of, bar_width
from convnext.errors import ConvNextError
from convnext.files import read_record, replace_text, to_json
from convnext.layout import hanging
from convnext.runtime.names import DETAILS, METRICS, TENSORBOARD

FORMATS = {"loss": ".4f", "lr": ".2e", "data_wait": ".0%"}
"""Of metrics of training; others are shown to three digits."""
VALUE = ("loss", "images_per_second", "data_wait", "skipped", "lr", "grad_norm")
"""Keys of a training record that are shown; a narrow terminal shows the first of them."""
NAMES = {"images_per_second": "img/s", "data_wait": "data wait", "grad_norm": "grad"}


class Recorder:
    """Writes the records of one run; only the main process makes one.

    A record is a dict with `kind` ("train" or "eval"), `step`, `epoch`, its metrics, and perhaps a sentence on them, `note`.
    Records later than `step`, left by a run that was killed after its last checkpoint, are removed first: they will come
    again.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        total_steps: int,
        step: int = 0,
        on_record: Callable[[dict], None] | None = None,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.console, self._on_record = console, on_record
        self.path = folder / METRICS
        records = read_lines(self.path)
        kept = [record for record in records if record["step"] <= step]
        if self.path.exists():  # replaced as a whole: a kill leaves the old file or the new one
            replace_text(self.path, "".join(to_json(record) + "\n" for record in kept))
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  closed by close()
        self._excepthook = threading.excepthook
        threading.excepthook = self._quietly
        self._events: SummaryWriter | None = SummaryWriter(str(folder / TENSORBOARD), purge_step=step or None)
        self._open, self._bar = ExitStack(), None
        if console.is_terminal:
            from rich.progress import TextColumn

            more = (TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[text]}"))
            self._bar, self._task = self._open.enter_context(bar_of("epoch 0.0", console, True, more, text=""))
            self._bar.update(self._task, total=total_steps, completed=step)
            self._room = console.width - 10 - bar_width(console) - 2 * len(str(total_steps)) - 20

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def record(
        self, kind: str, step: int, epoch: float, metrics: dict[str, float], eta: float | None = None, note: str = ""
    ) -> None:
        """Write one record everywhere. `eta` in seconds is for the plain lines; `note` is a sentence about the metrics.

        Raises:
            ConvNextError: the disk is full.
        """
        about = {"note": note} if note else {}
        record = {"kind": kind, "step": step, "epoch": round(epoch, 4), **metrics, **about}
        self._write(record)
        if self._on_record:
            self._on_record(record)
        self._draw(kind, step, metrics)
        shown = {
            name: value
            for name, value in metrics.items()
            if (name in VALUE if kind == "train" else not name.endswith(DETAILS))
        }
        texts = {name: f"{NAMES.get(name, name)} {value_text(kind, name, value)}" for name, value in shown.items()}
        if self._bar and kind == "train":
            self._bar.update(self._task, description=f"epoch {epoch:.1f}", text="  ".join(self._fitting(texts)))
        else:
            ending = [] if eta is None else [f"ETA {duration(eta)}"]
            width = self.console.width if self.console.is_terminal else None
            start = f"{kind:5}  epoch {epoch:7.2f}  step {step:6d}"
            self.console.print(hanging(start, [*texts.values(), *ending], width), highlight=False, soft_wrap=True)
        if note:
            self.console.print(note, style="yellow")

    def close(self) -> None:
        self._open.close()
        with suppress(OSError):  # of a full disk, which has been reported
            self._file.close()
        if self._events:
            with suppress(OSError):
                self._events.close()
        threading.excepthook = self._excepthook

    def _fitting(self, texts: dict[str, str]) -> list[str]:
        """As many of the texts as there is room for beside the bar, those of most value first, in their order."""
        chosen, room = set(), self._room
        for name in sorted(texts, key=lambda name: VALUE.index(name) if name in VALUE else len(VALUE)):
            if (room := room - len(texts[name]) - 2) < 0:
                break
            chosen.add(name)
        return [text for name, text in texts.items() if name in chosen]

    def _write(self, record: dict) -> None:
        try:
            self._file.write(to_json(record) + "\n")
        except OSError as error:
            raise ConvNextError(
                f"The records could not be written to {self.path}: {error}. Free some space and give the same command again "
                "to continue from the newest checkpoint."
            ) from error

    def _draw(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """TensorBoard's events: a help to the eye, for which no run is given up."""
        if self._events is None:
            return
        try:
            for name, value in metrics.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
        except OSError as error:
            self._events = None
            self.console.print(f"The run goes on without TensorBoard's events ({error}).", style="yellow", markup=False)

    def _quietly(self, failure: threading.ExceptHookArgs) -> None:
        """No traceback of the thread that writes the events: the next of them raises its error again."""
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            self._excepthook(failure)


def value_text(kind: str, name: str, value: float) -> str:
    """A metric as it is printed: three decimals in evaluations, three digits of what has no format in training."""
    if kind == "eval":
        return f"{value:.3f}"
    if name in FORMATS:
        return f"{value:{FORMATS[name]}}"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def read_lines(path: Path) -> list[dict]:
    """The records of a metrics file, without a last line that a kill cut short."""
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
