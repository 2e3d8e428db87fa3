"""The report in a real browser: light, dark, as narrow as a phone and on paper; silent, whole, and with nothing from elsewhere.

The screenshots stay in pytest's temporary folder (`--basetemp` chooses it) for whoever wants to look at them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import matplotlib.image
import numpy as np
import pytest

from stpipe.reports.report import write_report
from tests.reports.rich_run import make_rich_run

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
A4 = 673  # pixels between margins of 16 mm


def visit(page: Path, tmp_path: Path, *, width: int, height: int = 5000, flags: tuple[str, ...] = ()) -> tuple[np.ndarray, list[str]]:
    """Screenshot (height, width, 3) in 0..1 and the messages on the console; what the browser asked of the network is in network.json."""
    image = tmp_path / "page.png"
    log = tmp_path / "network.json"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={image}", f"--window-size={width},{height}", f"--log-net-log={log}"]
    done = subprocess.run([str(CHROMIUM), *FLAGS, *flags, *where, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    pixels = np.asarray(matplotlib.image.imread(image), dtype=np.float64)[..., :3]
    return pixels, re.findall(r"CONSOLE.*", done.stderr)


def share_of(pixels: np.ndarray, colour: str) -> float:
    """Share of the pixels that have a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=2) < 0.02).mean())


def requested(tmp_path: Path, page: Path) -> set[str]:
    """Addresses that a page asked for, other than itself; what the browser does for itself has no page that began it."""
    log = json.loads((tmp_path / "network.json").read_text(encoding="utf-8"))
    found = set()
    for event in log["events"]:
        params = event.get("params", {})
        if "url" in params and "initiator" in params and params["initiator"] != "not an origin":
            found.add(params["url"])
    return found - {page.as_uri()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> dict[str, Path]:
    """A run with every section, and one of a sparse model."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {"rich": make_rich_run(folder / "rich"), "sparse": synthetic.make_sparse_run(folder / "sparse")}
    return {name: write_report(run)[0] for name, run in runs.items()}


@pytest.mark.parametrize(
    ("name", "width", "height", "flags", "paper", "curve"),
    [
        ("rich", 1200, 6_000, (), "#ffffff", "#0b5fc4"),
        ("rich", 1200, 6_000, (DARK,), "#13161a", "#72b4ff"),
        ("rich", 390, 24_000, (), "#ffffff", "#0b5fc4"),
        ("rich", 390, 8_000, (DARK,), "#13161a", "#72b4ff"),
        ("sparse", 1200, 5_000, (), "#ffffff", "#0b5fc4"),
        ("sparse", 390, 8_000, (DARK,), "#13161a", "#72b4ff"),
    ],
    ids=["light", "dark", "phone", "dark phone", "sparse", "sparse dark phone"],
)
def test_the_page_is_drawn_in_its_colours(
    pages: dict[str, Path], tmp_path: Path, name: str, width: int, height: int, flags: tuple[str, ...], paper: str, curve: str
) -> None:
    pixels, console = visit(pages[name], tmp_path, width=width, height=height, flags=flags)
    assert console == []
    assert requested(tmp_path, pages[name]) == set()
    assert pixels.shape[1] == width
    assert share_of(pixels, paper) > 0.7
    assert share_of(pixels, curve) > 0.0002
    assert share_of(pixels[:, -10:], paper) == 1.0, "something reaches over the right edge"
    assert share_of(pixels, "#000000") == 0.0, "a colour is not the page's"


def test_the_console_and_the_network_would_have_told(pages: dict[str, Path], tmp_path: Path) -> None:
    """Scripts and requests are blocked by the page itself, and the tests above would see them; also those that are not blocked."""
    html = pages["sparse"].read_text(encoding="utf-8")
    page = tmp_path / "other.html"
    outside = '<script>1</script><img src="http://127.0.0.1:9/x.png" alt="">'
    page.write_text(html.replace("</main>", f"{outside}</main>"), encoding="utf-8")
    _, console = visit(page, tmp_path, width=800, height=600)
    assert len(console) == 2
    assert all("Content Security Policy" in message for message in console)
    assert requested(tmp_path, page) == set()
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    page.write_text(open_page.replace("</main>", f"{outside}</main>"), encoding="utf-8")
    visit(page, tmp_path, width=800, height=600)
    assert requested(tmp_path, page) == {"http://127.0.0.1:9/x.png"}


def on_paper(page: Path) -> str:
    """A page to which the rules for paper apply on a screen, with an empty edge where paper has its margin."""
    html = page.read_text(encoding="utf-8")
    assert html.count("@media print") == html.count("max-width: none; padding: 0;") == 1
    return html.replace("@media print", "@media screen").replace("max-width: none; padding: 0;", "max-width: none; padding: 0 20px;")


def test_on_paper_nothing_is_dark_or_cut_off(pages: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "paper.html"
    page.write_text(on_paper(pages["rich"]), encoding="utf-8")
    printed, console = visit(page, tmp_path, width=A4 + 40, height=24_000, flags=(DARK,))
    assert console == []
    assert share_of(printed, "#ffffff") > 0.7
    assert share_of(printed[:, -18:], "#ffffff") == 1.0, "something reaches over the right edge"


def test_on_paper_everything_is_unfolded(pages: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "paper.html"
    html = on_paper(pages["sparse"])
    unfold = "details::details-content"
    assert html.count(unfold) == 1 and html.count("<details>") > 3
    lengths = {}
    for rule in (unfold, "details.none"):
        page.write_text(html.replace(unfold, rule), encoding="utf-8")
        lengths[rule] = length(visit(page, tmp_path, width=A4 + 40, height=16_000)[0])
    assert 1.2 * lengths["details.none"] < lengths[unfold] < 15_990


def length(pixels: np.ndarray) -> int:
    """Rows of a screenshot down to the last one that is not empty."""
    return int(np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2))).max())


def test_it_prints(pages: dict[str, Path], tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={paper}", "--no-pdf-header-footer", pages["rich"].as_uri()]
    subprocess.run([str(CHROMIUM), *FLAGS, *where], capture_output=True, timeout=120, check=True)
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 100_000
