"""Energy and time of a run, added up over the processes that trained it one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SOURCE = "codecarbon"


def total(sessions: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Sum of a number over sessions; None when no session has it."""
    values = [float(s[key]) for s in sessions if isinstance(s.get(key), int | float)]
    return sum(values) if values else None


def measured_energy(sessions: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Energy in kWh, emissions in grams of CO2 equivalents and hours of all sessions that measured, with what they ran on; None without any."""
    parts = [s["energy"] for s in sessions if s.get("energy")]
    if not parts:
        return None
    sums = {key: total(parts, key) for key in ("energy_kwh", "emissions_g", "hours")}
    return {**parts[-1], **sums}


def emissions(sessions: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The Hub's entry co2_eq_emissions; None when nothing was measured."""
    found = measured_energy(sessions)
    if found is None:
        return None
    entry = {
        "emissions": found["emissions_g"],
        "energy_consumed": found["energy_kwh"],
        "source": SOURCE,
        "training_type": "fine-tuning",
        "on_cloud": found.get("on_cloud", False),
        "geographical_location": found.get("country"),
        "cpu_model": found.get("cpu"),
        "ram_total_size": found.get("ram_gb"),
        "hours_used": found["hours"],
        "hardware_used": found.get("gpu") or None,
    }
    return {key: value for key, value in entry.items() if value is not None}
