"""Names from files are text, wherever they are shown: pages, tables, pictures, terminals."""

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ser_cli.console import Console, print_error, visible
from ser_cli.evaluation.tables import as_latex, as_markdown
from ser_cli.runs.directory import Run
from tests.runs_on_disk import write_run

NASTY = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "a|b\nc\\d`e`$f$_g_#h",
    "[x](javascript:alert(1)) <b>&lt;",
    "red\x1b[31m\x1b]0;title\x07\u202egnp.wav",
)


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.shown += data


@pytest.fixture
def nasty_run() -> Path:
    speakers = [f"{name}{number}" for number in range(2) for name in NASTY]
    rows = [(f"{i}-{n}", f"{speaker}", label, label) for i, speaker in enumerate(speakers)
            for n, label in enumerate(NASTY[:3])]  # fmt: skip
    half = len(rows) // 2
    told = {"dataset": NASTY[0], "recipe": NASTY[4], "encoder": NASTY[5], "protocol": NASTY[1], "where": [NASTY[3]]}
    gender = dict.fromkeys(speakers, NASTY[1])
    return write_run(Path("run"), [rows[:half], rows[half:]], NASTY[:3], gender=gender, **told)


def test_reports_show_nasty_names_as_text(ser, nasty_run):
    result = ser("evaluate", nasty_run)
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr
    html = (nasty_run / "report.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "iframe", "object"}
    assert all(not name.startswith("on") for name, _ in page.attributes)
    links = [value for name, value in page.attributes if name in {"href", "src"}]
    assert all(link.startswith(("#part-", "data:image/")) for link in links)
    assert NASTY[0] in page.shown
    assert NASTY[2] in page.shown
    assert "\x1b" not in html
    assert "\u202e" not in html
    for path in (*nasty_run.glob("tables/*"), nasty_run / "report.md"):
        assert "\x1b" not in path.read_text() or path.suffix == ".csv"
    for path in nasty_run.glob("figures/*.svg"):
        tree = ElementTree.parse(path)  # strict: a control character would end it
        names = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert "script" not in names
        assert all(not key.startswith("on") for element in tree.iter() for key in element.attrib)


def test_markdown_and_latex_tables_keep_their_columns(nasty_run):
    from ser_cli.evaluation.scores import evaluate_run
    from ser_cli.evaluation.sections import breakdown_sections

    sections = breakdown_sections(evaluate_run(Run(nasty_run)).breakdown, pictures=False)
    tables = [table for section in sections for table in section.tables]
    assert tables
    for table in tables:
        lines = as_markdown(table).splitlines()
        assert len(lines) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {len(table.columns) + 1}
        assert not re.search(r"(?<!\\)<", "\n".join(lines))
        body = [row for row in as_latex(table).splitlines() if row.endswith("\\\\")]
        assert len(body) == len(table.rows) + 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in body} == {len(table.columns) - 1}


def test_the_page_of_mixtures_shows_nasty_names_as_text(ser, tmp_path):
    from tests.conftest import write_tone

    lines = ["path,emotion,speaker,id"]
    for number, emotion in enumerate(("<b>x", "y\"'><img/onerror=1>")):
        for take in range(2):
            write_tone(tmp_path / f"c/{number}{take}.wav", 300 + 200 * number, seed=take)
            quoted = emotion.replace('"', '""')
            lines.append(f'{number}{take}.wav,"{quoted}",<script>{take}</script>,"{number}{take}\x1b[31m<i>"')
    (tmp_path / "c/nasty.csv").write_text("\n".join(lines) + "\n")
    result = ser("mix", "--manifest", tmp_path / "c/nasty.csv", "--count", "3", "--output", "mixed")
    assert result.exit_code == 0, result.stderr
    html = Path("mixed/index.html").read_text()
    page = Page(html)
    assert html.count("<script>") == 1
    assert all(not name.startswith("on") for name, _ in page.attributes)
    assert "<i>" not in html.replace('<i style="', "")
    assert "<script>0</script>" in page.shown
    assert "\x1b" not in html
    policy = next(value for name, value in page.attributes if value and "script-src" in value)
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_terminal_is_shown_control_characters_and_never_given_them(capsys, monkeypatch):
    name = "a\x1b[2J\x9b1m\rb\u202ec\td"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_error(name)
    Console().result(name)
    Console().result_json({"name": name})
    Console().result_table((name,), [(name,)])
    told = capsys.readouterr()
    drawn = told.out.partition("┏")[2]
    assert "a\\x1b[2J\\x9b1m\\rb\\u202ec\\td" in drawn
    for text in (told.out, told.err):
        assert not set(text) & set("\x9b\r\u202e\t")
        assert "\x1b[2J" not in text
    assert told.err == "error: a\\x1b[2J\\x9b1m\\rb\\u202ec\\td\n"
    assert json.loads(told.out.splitlines()[1]) == {"name": name}


def test_a_program_is_given_paths_as_they_are_and_tables_whose_cells_keep_their_place(capsys):
    Console().result("a\x1bb\tc")
    Console().result_table(("x", "y"), [("a\tb", "c\nd")])
    assert capsys.readouterr().out == "a\x1bb\tc\nx\ty\na\\tb\tc\\nd\n"
    assert visible("Zoë: 日本 😀\n") == "Zoë: 日本 😀\n"
