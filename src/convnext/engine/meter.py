"""The speed of training between two records."""

import time


class Meter:
    """Images trained on and seconds waited for data since the last record; time that is paused does not count."""

    def __init__(self, step: int):
        self._began = self._since = time.monotonic()
        self._first = step
        self.images, self.waited = 0, 0.0

    def pause(self, seconds: float) -> None:
        """Leave an evaluation's seconds out of the speed."""
        self._since += seconds

    def read(self) -> dict[str, float]:
        """images_per_second and data_wait (a share of the time) since the last reading."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        speed = {"images_per_second": self.images / seconds, "data_wait": min(self.waited / seconds, 1.0)}
        self._since, self.images, self.waited = now, 0, 0.0
        return speed

    def eta(self, step: int, total_steps: int) -> float:
        """Seconds to the end at the pace so far, evaluations included."""
        return (time.monotonic() - self._began) / max(step - self._first, 1) * (total_steps - step)
