"""The page of `ser mix` in a real browser: it plays, fits a phone, follows a dark theme, and escapes what it shows."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import write_tone


@pytest.fixture
def page(ser, tmp_path) -> Path:
    """The page of a corpus whose emotions and files have names that are markup."""
    lines = ["path,emotion,speaker"]
    for number in range(6):
        name = f"<script>alert({number})</script>&{number}.wav".replace("/", "_")
        write_tone(tmp_path / name, 300 + 50 * number, 1.0, seed=number)
        lines.append(f'"{name}",{"<b>sad" if number % 2 else "happy & glad"},<i>p{number}')
    (tmp_path / "odd.csv").write_text("\n".join(lines) + "\n")
    result = ser("mix", "--manifest", tmp_path / "odd.csv", "--count", 3, "--output", "mixed")
    assert result.exit_code == 0, result.stderr
    assert "listen and look: mixed/index.html" in result.stderr
    return Path("mixed/index.html").absolute()


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "https:" not in text
    assert 'src="audio' not in text
    assert text.count("data:audio/flac;base64,") == 9
    assert text.count("data:image/png;base64,") == 9
    assert "<script>alert" not in text
    assert "<b>sad" not in text


@pytest.fixture
def browser():
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


def test_the_players_play_and_nothing_is_complained_of(page, browser):
    browser.get(page.as_uri())
    durations = browser.execute_async_script(
        """const done = arguments[0];
        const players = [...document.querySelectorAll("audio")];
        Promise.all(players.map(async player => {
          if (player.readyState < 1) await new Promise(known => player.addEventListener("loadedmetadata", known));
          return player.duration;
        })).then(done);"""
    )
    assert durations == pytest.approx([1.0] * 9, abs=0.01)
    played = browser.execute_async_script(
        """const done = arguments[0];
        const [first, second] = document.querySelectorAll("audio");
        first.play().then(() => new Promise(later => first.addEventListener("timeupdate", later)))
          .then(() => second.play())
          .then(() => setTimeout(() => done([first.currentTime, first.paused, second.paused]), 50));"""
    )
    assert played[0] > 0
    assert played[1:] == [True, False]
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def test_pictures_are_drawn_and_the_region_is_marked(page, browser):
    browser.get(page.as_uri())
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])"
    )
    assert len(sizes) == 9
    assert all(complete and width == 260 and height == 129 for complete, width, height in sizes)
    regions = browser.execute_script(
        "return [...document.querySelectorAll('.region')].map(r => +r.getAttribute('width'))"
    )
    assert all(0 < width <= 150.5 for width in regions)
    shares = browser.execute_script("return [...document.querySelectorAll('.label .share')].map(s => +s.textContent)")
    assert all(0 < share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(3, abs=0.01)
    assert "<b>sad" in browser.execute_script("return document.body.innerText")


def test_nothing_sticks_out_on_a_phone(page, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert browser.execute_script("return document.querySelector('audio').getBoundingClientRect().width") > 250


def test_a_dark_theme_is_followed(page, browser):
    colours = {}
    for theme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        browser.get(page.as_uri())
        red = "return getComputedStyle(document.body)[arguments[0]].match(/[0-9]+/)[0]"
        colours[theme] = [int(browser.execute_script(red, what)) for what in ("backgroundColor", "color")]
    paper, ink = colours["light"]
    assert paper > 200
    assert ink < 100
    paper, ink = colours["dark"]
    assert paper < 60
    assert ink > 200
