"""The state of a GPU while it is measured: driver, clocks, power, and why it is slower than it could be."""

import shutil
import subprocess

QUERY = {
    "driver": "driver_version",
    "sm_clock": "clocks.sm",
    "memory_clock": "clocks.mem",
    "power": "power.draw",
    "power_limit": "power.limit",
    "temperature": "temperature.gpu",
    "throttle_reasons": "clocks_throttle_reasons.active",
}


def gpu_state(index: int = 0) -> dict[str, str] | None:
    """Return driver, clocks (MHz), power (W), temperature (C) and the bits of the reasons for lower clocks, as `nvidia-smi`
    says them; None where it is missing or refuses."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else None
