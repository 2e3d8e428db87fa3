"""Energy and emissions of a training process, measured by codecarbon without a network."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from typing import Any

from stpipe.config.errors import MissingExtraError

PACKAGE = "codecarbon"
logger = logging.getLogger(__name__)


class EnergyMeter:
    """Measures the machine (processor, memory, GPUs) from `start` to `stop`. What fails here costs the figures, never the run.

    codecarbon takes about two seconds to look at the machine, so it starts in a thread of its own while training goes on; it
    measures every 15 seconds after that. A run over several machines is measured on that of rank 0 only.

    Args:
        country: three-letter code of the country whose electricity mix turns energy into emissions.

    Raises:
        MissingExtraError: codecarbon is not installed.
    """

    def __init__(self, country: str) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise MissingExtraError(PACKAGE, "energy", "card.energy")
        self.country = country
        self._last = _Last()
        self._tracker: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, at once for the caller."""
        self._thread = threading.Thread(target=self._start, name="energy", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            logging.getLogger(PACKAGE).setLevel(logging.CRITICAL)  # before it reads a level from its own settings
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                country_iso_code=self.country,
                output_methods=[],
                output_handlers=[self._last],
                log_level="critical",
                allow_multiple_runs=True,
                tracking_mode="machine",
            )
            tracker.start()
        except Exception as error:
            logger.warning("energy is not measured: %s: %s", type(error).__name__, error)
            return
        with self._lock:
            self._tracker = tracker

    def read(self) -> dict[str, Any] | None:
        """Figures since the start; None while there are none. Measuring goes on."""
        with self._lock:
            return self._figures(lambda tracker: tracker.flush()) if self._tracker is not None else None

    def stop(self) -> dict[str, Any] | None:
        """End, and give the figures; None when nothing was measured. Waits for a start that is still under way."""
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            figures = self._figures(lambda tracker: tracker.stop()) if self._tracker is not None else None
            self._tracker = None
        return figures

    def _figures(self, call: Callable[[Any], Any]) -> dict[str, Any] | None:
        """Make codecarbon add up, and take what it says."""
        try:
            call(self._tracker)
        except Exception as error:
            logger.warning("energy could not be read: %s: %s", type(error).__name__, error)
        return self._last.figures(self.country)


class _Last:
    """An output of codecarbon that keeps what it was last given; the methods are those that codecarbon calls."""

    def __init__(self) -> None:
        self.total: Any = None

    def out(self, total: Any, delta: Any) -> None:
        self.total = total

    def live_out(self, total: Any, delta: Any) -> None:
        self.total = total

    def task_out(self, data: Any, experiment_name: str) -> None:
        """Tasks are not used."""

    def exit(self) -> None:
        """Nothing is open."""

    def figures(self, country: str) -> dict[str, Any] | None:
        """Plain JSON values; None before the first measurement."""
        found = self.total
        if found is None:
            return None
        return {
            "energy_kwh": float(found.energy_consumed),
            "emissions_g": 1000 * float(found.emissions),
            "hours": float(found.duration) / 3600,
            "country": found.country_name or country,
            "cpu": found.cpu_model or None,
            "gpu": found.gpu_model or None,
            "ram_gb": round(float(found.ram_total_size), 2),
            "on_cloud": found.on_cloud == "Y",
            "codecarbon": found.codecarbon_version,
        }
