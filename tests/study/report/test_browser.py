"""The report in a real browser: no errors, no requests, and what is there to be used answers; light, dark, print."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded
from study_pages import MARKUP, hostile

from study.findings.compare import ranking
from study.pictures.catalogue import KINDS
from study.pictures.theme import PALETTES
from study.report.page import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    *(pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS),
]

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 22, 26)"


class Browser:
    """Chromium with a page open."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, text: str, folder: Path, theme: str = "light", width: int = 1100) -> None:
        """Opens a page; returns once its pictures are drawn."""
        (folder / "report.html").write_text(text, encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.prefer(theme)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get((folder / "report.html").as_uri())
        self.wait("return document.documentElement.dataset.ready === 'yes'")

    def prefer(self, theme: str) -> None:
        """Sets the reader's preferred colours."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Waits until a script returns true."""
        end = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def drag(self, plot: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drags over a picture, from and to shares of its width and height."""
        box = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]", plot,
        )  # fmt: skip
        places = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in (start, end)]
        steps = [("mousePressed", places[0]), ("mouseMoved", places[1]), ("mouseReleased", places[1])]
        for kind, (x, y) in [("mouseMoved", places[0]), *steps]:
            event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def complaints(self) -> list[str]:
        """What the console has to say."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for and are neither this page nor inside it."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:")) and not url.endswith("/report.html")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One chromium for all tests; they are skipped where there is none."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        message = "the report's browser tests need chromium and chromedriver (Debian: chromium, chromium-driver)"
        if os.environ.get("BELAY_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{message}; BELAY_REQUIRE_BROWSER is set.")
        pytest.skip(message)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def page() -> str:
    return report(recorded.records("mixed"))


@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_drawn_without_a_complaint_or_a_request_and_fits(
    browser: Browser, page: str, tmp_path: Path, theme: str, width: int
) -> None:
    browser.open(page, tmp_path, theme, width)
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        LIGHT if theme == "light" else DARK
    )
    assert browser.run("return document.documentElement.scrollWidth") <= width
    left_out = 3  # five settings tell of no importance, theory knows no limit of Adam, and there are no riders
    assert browser.run("return document.querySelectorAll('.plot > *').length") == len(KINDS) - left_out
    assert browser.run(
        "return [...document.querySelectorAll('.plot svg')].every(e => e.querySelectorAll('path').length > 3)"
    )
    widest = "return Math.max(...[...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().right))"
    assert browser.run(widest) <= width
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.parametrize(("name", "kind"), [("tiny", "stability"), ("ridden", "riders")])
def test_a_picture_that_few_studies_have_is_drawn_without_a_complaint_too(
    browser: Browser, tmp_path: Path, name: str, kind: str
) -> None:
    browser.open(report(recorded.records(name)), tmp_path)
    assert browser.run(f"return document.querySelectorAll('#plot-{kind} path').length") > 3
    assert browser.complaints() == []


def test_its_pictures_follow_the_reader_s_colours_and_width(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    ink = "return document.querySelector('#plot-regimes .role-axis-title text').getAttribute('fill')"
    light = browser.run(ink)
    browser.prefer("dark")
    browser.wait(f"{ink} !== '{light}'")
    before = browser.run("return document.querySelector('#plot-regimes svg').getBoundingClientRect().width")
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.wait(f"return document.querySelector('#plot-regimes svg').getBoundingClientRect().width < {before} - 200")
    assert browser.complaints() == []


def test_a_click_on_a_head_sorts_and_a_text_filters_the_table(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    column = (
        "return [...document.querySelectorAll('#settings tbody tr')]"
        ".filter(r => !r.hidden).map(r => r.cells[%d].textContent)"
    )
    settings = [str(number) for number in ranking(recorded.records("mixed")).index]
    assert browser.run(column % 1) == settings
    click = "document.querySelectorAll('#settings th button')[1].click()"
    browser.run(click)
    assert browser.run(column % 1) == sorted(settings)
    browser.run(click)
    assert browser.run(column % 1) == sorted(settings, reverse=True)
    browser.run("const s = document.getElementById('search'); s.value = 'adam'; s.dispatchEvent(new Event('input'))")
    assert browser.run(column % 1) == ["2"]
    assert browser.run("return document.getElementById('shown').textContent") == "1 of 5 rows"


def test_a_box_on_the_regime_map_leaves_its_settings_in_the_table(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    shown = "return [...document.querySelectorAll('#settings tbody tr')].filter(r => !r.hidden).length"
    assert browser.run(shown) == 5
    browser.drag("#plot-regimes svg", (0.15, 0.17), (0.98, 0.35))  # the top, where EMA is
    browser.wait(f"{shown} === 2")
    assert "those in the box of the regime map" in browser.run("return document.getElementById('shown').textContent")


def test_a_box_goes_with_the_map_that_it_was_dragged_on(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    shown = "return [...document.querySelectorAll('#settings tbody tr')].filter(r => !r.hidden).length"
    browser.drag("#plot-regimes svg", (0.15, 0.17), (0.98, 0.35))
    browser.wait(f"{shown} === 2")
    browser.prefer("dark")
    browser.wait(f"{shown} === 5")
    assert browser.run("return document.getElementById('shown').textContent") == "5 of 5 rows"


def test_a_drag_over_the_map_of_a_study_without_a_table_does_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.open(report(recorded.records("all-diverged")), tmp_path)
    browser.drag("#plot-regimes svg", (0.3, 0.3), (0.8, 0.7))
    assert browser.complaints() == []


def test_a_brush_over_one_coordinate_dims_the_others_settings(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    bright = (
        "return [...document.querySelectorAll('#plot-coordinates .mark-symbol path[aria-roledescription=circle]')]"
        ".filter(p => p.getAttribute('fill-opacity') > 0.1).map(p => /setting: (\\d+)/.exec(p.ariaLabel)[1]).join()"
    )
    assert browser.run(bright) == ",".join(["0,1,2,3,4"] * 3)
    browser.drag("#plot-coordinates svg", (0.08, 0.4), (0.2, 0.7))  # the left half of the first, without coupling
    browser.wait(f"{bright} === '1,2,1,2,1,2'")


def test_the_metric_and_the_best_share_can_be_chosen(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    assert browser.run("return document.querySelector('#controls-curves select').value") == "val_accuracy"
    lines = "return document.querySelectorAll('#plot-parallel .mark-line path').length"
    few = browser.run(lines)
    browser.run(
        "const s = document.querySelector('#controls-parallel input');"
        "s.value = 100; s.dispatchEvent(new Event('input'))"
    )
    browser.wait(f"{lines} > {few}")
    browser.prefer("dark")  # what was chosen outlasts another drawing
    browser.wait("return document.querySelector('#controls-parallel input').value === '100'")
    browser.wait(f"{lines} > {few}")


def test_a_point_tells_its_figures(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    place = browser.run(
        "const e = document.querySelector('#plot-regimes .mark-symbol path[aria-roledescription=\"circle\"]');"
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]"
    )
    event = {"type": "mouseMoved", "x": place[0], "y": place[1]}
    browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    browser.wait("return !document.getElementById('tip').hidden")
    told = browser.run("return document.getElementById('tip').textContent")
    assert "mass ratio" in told
    assert "optimizer sgd" in told or "optimizer adam" in told


def test_a_picture_can_be_saved(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path)
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for kind, start in (("svg", b"<svg"), ("png", b"\x89PNG")):
        browser.run(f'document.querySelector(\'button[data-figure="regimes"][data-kind="{kind}"]\').click()')
        file = tmp_path / f"mixed-regimes.{kind}"
        end = time.monotonic() + 30
        while not (file.exists() and file.stat().st_size) and time.monotonic() < end:
            time.sleep(0.1)  # a name is there before its content
        assert file.read_bytes().startswith(start)


def test_in_print_it_is_dark_on_light_whatever_the_screen(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.open(page, tmp_path, "dark")
    pdf = browser.driver.execute_cdp_cmd(
        "Page.printToPDF", {"printBackground": False, "paperWidth": 8.27, "paperHeight": 11.69}
    )
    colours = drawn_colours(base64.b64decode(pdf["data"]))
    assert colour(PALETTES["light"]["soft"]) in colours  # the axes' labels
    assert colour(PALETTES["light"]["best"]) in colours  # the ring around the best
    assert colour(PALETTES["dark"]["soft"]) not in colours
    assert colour(PALETTES["dark"]["best"]) not in colours
    assert browser.complaints() == []
    browser.wait(f"return document.querySelector('#plot-regimes svg').outerHTML.includes('{PALETTES['dark']['best']}')")


def drawn_colours(pdf: bytes) -> set[tuple[float, ...]]:
    """Colours that a PDF fills or strokes with."""
    found = set()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):
            for parts in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) (?:rg|RG)\b", zlib.decompress(stream)):
                found.add(tuple(round(float(part), 2) for part in parts))
    return found


def colour(code: str) -> tuple[float, ...]:
    """A colour as a PDF has it."""
    return tuple(round(int(code[at : at + 2], 16) / 255, 2) for at in (1, 3, 5))


def test_hostile_names_and_messages_are_text(browser: Browser, tmp_path: Path) -> None:
    browser.open(report(hostile()), tmp_path)
    assert browser.run("return document.querySelector('h1').textContent") == MARKUP
    assert browser.run("return document.querySelectorAll('main img').length") == 0
    assert browser.complaints() == []  # an alert would have stopped the script that asks
    assert browser.requests() == []


@pytest.mark.parametrize("name", ["one-seed", "all-diverged", "constant", "coupled", "live"])
def test_poor_studies_have_a_page_without_complaints(browser: Browser, tmp_path: Path, name: str) -> None:
    browser.open(report(recorded.records(name)), tmp_path)
    assert browser.complaints() == []
