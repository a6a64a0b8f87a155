"""Tables and pages: what names may hold, and what each form makes of it."""

import json
import re
from pathlib import Path

import pytest

from ser_cli.evaluation.pages import Picture, Report, Section, Tile, as_markdown_report, as_page
from ser_cli.evaluation.tables import Column, Table, as_csv, as_latex, as_markdown
from tests.runs_on_disk import some_rows, write_run

EVIL = '<script>alert("x")</script>'


def table(name="a|b"):
    columns = (Column("who", "who_is", "text"), Column("n", "clips", "count"), Column("ua", "UA %"))
    return Table("t", "100 % & more", columns, ((name, 1440, 0.12345), ("none", None, None)))


def test_markdown_shows_rates_in_per_cent_and_escapes_bars():
    assert as_markdown(table()).splitlines() == [
        "| who\\_is | clips | UA % |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1,440 | 12.3 |",
        "| none |  |  |",
    ]


def test_latex_is_a_booktabs_tabular_with_escaped_names():
    text = as_latex(table("50%_$x\\y^~#{"))
    assert "\\begin{tabular}{lrr}" in text
    assert r"50\%\_\$x\textbackslash{}y\textasciicircum{}\textasciitilde{}\#\{ & 1,440 & 12.3 \\" in text
    assert text.count("rule\n") == 3


def test_csv_holds_rates_in_full():
    assert as_csv(table("a,b")) == 'who,n,ua\n"a,b",1440,0.12345\nnone,,\n'


def test_a_negative_difference_has_a_minus_sign():
    shown = Table("t", "", (Column("d", "d", "difference"),), ((-0.021,), (0.02,)))
    assert shown.cells() == [("−2.1",), ("+2.0",)]


def test_a_page_escapes_every_text():
    svg = b'<svg width="72pt" height="36pt"></svg>'
    report = Report(
        title=EVIL,
        sentences=(EVIL,),
        warnings=(EVIL,),
        tiles=(Tile(EVIL, EVIL, EVIL),),
        sections=(Section(EVIL, EVIL, (Picture("p", EVIL, svg, b"", svg),), (table(EVIL),)),),
        facts=((EVIL, EVIL),),
    )
    page = as_page(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 12
    assert 'width="96" height="48"' in page
    assert "default-src 'none'" in page
    assert "<script" not in as_markdown_report(report).replace("\\<script", "")


@pytest.mark.parametrize("name", [EVIL, "a|b", "$x^2$", "50%_&", "怒り", "x" * 80])
def test_any_label_and_speaker_gives_a_report(ser, name):
    labels = (name, "happy", "sad")
    run = write_run(Path("run"), [some_rows([f"{name}1", "b"], labels=labels)] * 1, labels)
    result = ser("evaluate", run)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("Warning") == 0
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert json.loads((run / "scores.json").read_text())["labels"] == list(labels)


def test_a_page_follows_the_theme_and_fetches_nothing(ser):
    run = write_run(Path("run"), [some_rows(["a", "b"])])
    ser("evaluate", run)
    page = (run / "report.html").read_text()
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "<img" in page and 'alt=""' not in page


def test_selection_on_the_test_side_stands_in_the_page(ser):
    run = write_run(Path("run"), [some_rows(["a", "b"])])
    (run / "fold-1/done.json").write_text('{"epoch": 1, "selected_by": "test"}')
    ser("evaluate", run)
    assert "ON ITS TEST SIDE" in (run / "report.html").read_text()
