"""The report in a real browser: light, dark and as narrow as a phone, without console messages and without anything cut off."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from stpipe.reports.report import write_report

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: the report was not looked at. Install Debian's package chromium"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
]
DARK = "--blink-settings=preferredColorScheme=0"


def visit(page: Path, tmp_path: Path, *, width: int, height: int = 5000, flags: tuple[str, ...] = ()) -> tuple[np.ndarray, list[str]]:
    """Screenshot (height, width, 3) in 0..1 and the messages on the console."""
    image = tmp_path / "page.png"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={image}", f"--window-size={width},{height}"]
    done = subprocess.run([str(CHROMIUM), *FLAGS, *flags, *where, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    pixels = np.asarray(matplotlib.image.imread(image), dtype=np.float64)[..., :3]
    return pixels, re.findall(r"CONSOLE.*", done.stderr)


def share_of(pixels: np.ndarray, colour: str) -> float:
    """Share of the pixels that have a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=2) < 0.02).mean())


@pytest.mark.parametrize("fixture", ["run_dir", "sparse_run_dir"])
@pytest.mark.parametrize(
    ("width", "flags", "paper", "curve"),
    [
        (1200, (), "#ffffff", "#0b5fc4"),
        (1200, (DARK,), "#13161a", "#72b4ff"),
        (390, (), "#ffffff", "#0b5fc4"),
        (390, (DARK,), "#13161a", "#72b4ff"),
    ],
    ids=["light", "dark", "phone", "dark phone"],
)
def test_the_page_is_drawn_in_its_colours(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, width: int, flags: tuple[str, ...], paper: str, curve: str
) -> None:
    page, _ = write_report(request.getfixturevalue(fixture))
    pixels, console = visit(page, tmp_path, width=width, flags=flags)
    assert console == []
    assert pixels.shape[1] == width
    assert share_of(pixels, paper) > 0.7
    assert share_of(pixels, curve) > 0.0005
    assert share_of(pixels[:, -10:], paper) == 1.0, "something reaches over the right edge"


def test_the_console_would_have_told(run_dir: Path, tmp_path: Path) -> None:
    """Scripts and requests are blocked by the page itself, and the test above would see them."""
    html = write_report(run_dir)[0].read_text(encoding="utf-8")
    page = tmp_path / "other.html"
    page.write_text(html.replace("</main>", '<script>1</script><img src="http://127.0.0.1:9/x.png" alt=""></main>'), encoding="utf-8")
    _, console = visit(page, tmp_path, width=800, height=600)
    assert len(console) == 2
    assert all("Content Security Policy" in message for message in console)


def test_it_prints_with_everything_unfolded(run_dir: Path, tmp_path: Path) -> None:
    page, _ = write_report(run_dir)
    paper = tmp_path / "page.pdf"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={paper}", "--no-pdf-header-footer", page.as_uri()]
    subprocess.run([str(CHROMIUM), *FLAGS, *where], capture_output=True, timeout=120, check=True)
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 30_000
