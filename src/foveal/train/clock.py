"""Where a step's time goes."""

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall time by phase and CPU time; every name starts with time/: what may differ between equal runs."""

    began: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)
    last: float = field(default_factory=time.perf_counter)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        """Close a phase."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def metrics(self) -> dict[str, float]:
        """Seconds by name."""
        found = {f"time/{name}": round(value, 4) for name, value in self.laps.items()}
        found["time/step_s"] = round(time.perf_counter() - self.began, 4)
        found["time/cpu_s"] = round(time.process_time() - self.cpu, 4)
        return found
