import sys

import pytest

from ser_cli.console import Console, print_error

LONG = "/a/very/long/path/" + "x" * 200 + "/[brackets]/file.wav"


@pytest.mark.parametrize("quiet", [False, True])
def test_results_go_to_stdout_and_words_to_stderr(capsys, quiet):
    console = Console(quiet=quiet)
    console.result("runs/a")
    console.say("working")
    console.warn("careful")
    console.table("facts", {"clips": 3})
    print_error("no")
    told = capsys.readouterr()
    assert told.out == "runs/a\n"
    expected = "error: no\n" if quiet else "working\nwarning: careful\nfacts\n  clips  3\nerror: no\n"
    assert told.err == expected


def test_a_path_is_never_broken_and_brackets_are_no_markup(capsys):
    Console().say(LONG)
    Console().result(LONG)
    told = capsys.readouterr()
    assert told.err == told.out == LONG + "\n"


def test_details_are_for_verbose_alone(capsys):
    Console().detail("why")
    Console(verbose=True).detail("because")
    assert capsys.readouterr().err == "because\n"


def test_json_is_one_line_and_refuses_what_json_has_not(capsys):
    Console().result_json({"emotion": "fröhlich", "std": None})
    assert capsys.readouterr().out == '{"emotion": "fröhlich", "std": null}\n'
    with pytest.raises(ValueError, match="Out of range"):
        Console().result_json({"ua": float("nan")})


def test_a_table_is_tab_separated_off_a_terminal_and_drawn_on_one(capsys, monkeypatch):
    Console().result_table(("fold", "UA %"), [("1", "50.0")])
    assert capsys.readouterr().out == "fold\tUA %\n1\t50.0\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Console().result_table(("fold", "UA %"), [("1", "50.0")])
    drawn = capsys.readouterr().out
    assert "\t" not in drawn
    assert "50.0" in drawn
    assert len(drawn.splitlines()) > 2
