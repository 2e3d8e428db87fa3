"""Time and energy of a run that was continued are those of all its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpipe.cards.collected import write_collected
from stpipe.cards.data import CARD_DATA
from stpipe.cards.energy import emissions, measured_energy, total
from tests.cards.reading import card, head

ENERGY: dict[str, Any] = {
    "energy_kwh": 0.5,
    "emissions_g": 190.0,
    "hours": 1.0,
    "country": "Germany",
    "cpu": "A processor",
    "gpu": None,
    "ram_gb": 16.0,
    "on_cloud": False,
}
SESSIONS = [
    {"from_step": 0, "to_step": 80, "seconds": 100.0, "evaluation_seconds": 10.0, "energy": ENERGY},
    {"from_step": 60, "to_step": 90, "seconds": 50.0, "evaluation_seconds": 0.0},
    {"from_step": 90, "to_step": 200, "seconds": 150.0, "evaluation_seconds": 5.0, "energy": {**ENERGY, "energy_kwh": 0.25}},
]


def test_sums() -> None:
    assert (total(SESSIONS, "seconds"), total(SESSIONS, "evaluation_seconds"), total(SESSIONS, "other")) == (300.0, 15.0, None)
    found = measured_energy(SESSIONS)
    assert found is not None
    assert (found["energy_kwh"], found["emissions_g"], found["hours"], found["cpu"]) == (0.75, 380.0, 2.0, "A processor")
    assert measured_energy(SESSIONS[1:2]) is None and emissions([]) is None


def test_the_entry_of_the_hub() -> None:
    assert emissions(SESSIONS) == {
        "emissions": 380.0,
        "energy_consumed": 0.75,
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "on_cloud": False,
        "geographical_location": "Germany",
        "cpu_model": "A processor",
        "ram_total_size": 16.0,
        "hours_used": 2.0,
    }


def test_in_the_card(run_dir: Path) -> None:
    (run_dir / "model").mkdir()
    assert "co2_eq_emissions" not in head(card(run_dir))
    data = CARD_DATA["dense"]()
    data.sessions = SESSIONS
    write_collected(run_dir, data)
    text = card(run_dir)
    assert head(text)["co2_eq_emissions"] == emissions(SESSIONS)
    for line in (
        "| Energy | 0.75 kWh |",
        "| Emissions | 380 g of CO2 equivalents |",
        "| Measured time | 2 h 00 min |",
        "| Time for training | 5 min 00 s |",
        "| Of this for evaluations | 15.0 s |",
    ):
        assert line in text, line
