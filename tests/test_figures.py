"""Pictures: what is drawn is what was given; embeddings as training stores them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_cli.checkpoints import load_model
from ser_cli.data.store import open_corpus
from ser_cli.errors import RunError
from ser_cli.evaluation.scores import read_history
from ser_cli.figures.attention import draw_attention
from ser_cli.figures.calibration import draw_reliability
from ser_cli.figures.curves import draw_learning_curves, loss_columns
from ser_cli.figures.embedding import draw_embeddings, embed_in_two_dimensions
from ser_cli.figures.matrices import draw_confusion
from ser_cli.figures.rates import MOST_ROWS, Rate, draw_rates
from ser_cli.figures.style import DARK, INK, PALETTE, as_png, as_svg, as_themed_svg
from ser_cli.metrics import Scores, calibrate
from ser_cli.runs.embeddings import FoldEmbeddings, FrameAttention, read_embeddings, write_embeddings
from ser_cli.training.history import EpochRecord, write_history
from tests.conftest import TINY


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(("normalized", "shown"), [(False, ["8", "2", "·", "40"]), (True, ["80", "20", "·", "100"])])
def test_a_confusion_matrix_shows_counts_or_shares(normalized, shown):
    axes = draw_confusion([[8, 2], [0, 40]], ["happy", "sad"], normalized=normalized).axes[0]
    assert texts(axes) == shown
    assert [label.get_text() for label in axes.get_yticklabels()] == ["happy", "sad"]
    assert axes.yaxis_inverted()


def test_a_label_without_clips_has_an_empty_row():
    assert texts(draw_confusion([[0, 0], [1, 3]], ["a", "b"], normalized=True).axes[0]) == ["·", "·", "25", "75"]


def test_rates_are_drawn_where_they_are():
    figure = draw_rates([Rate("happy", 0.4, 0.2, 0.6), Rate("sad", 0.9)], "Recall", mean=0.65, mean_name="UA")
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert [list(map(float, np.atleast_1d(x))) for x in lines] == [[0.2, 0.6], [0.4], [0.9], [0.65, 0.65]]


def test_of_many_speakers_the_lowest_and_the_highest_are_shown():
    rates = [Rate(str(n), n / 1000) for n in range(1000)]
    shown = [label.get_text() for label in draw_rates(rates, "UA").axes[0].get_yticklabels()]
    assert len(shown) == MOST_ROWS
    assert (shown[0], shown[-1]) == ("0", "999")


def test_reliability_leaves_empty_intervals_out():
    calibration = calibrate(np.array([0.5, 0.5, 0.95]), np.array([True, False, True]))
    upper = draw_reliability(calibration).axes[0]
    curve = upper.lines[-1]
    np.testing.assert_allclose(curve.get_xdata(), [0.5, 0.95])
    np.testing.assert_allclose(curve.get_ydata(), [0.5, 1.0])


def test_learning_curves_have_a_panel_for_each_loss():
    history = {"epoch": [1, 2], "total": [3, 2], "kl": [1, 0.5], "center": [5, 0.01], "selection_ua": [0.2, 0.4]}
    figure = draw_learning_curves({1: history, 2: history}, {1: 2, 2: 1})
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(shown) == ["weighted sum", "kl", "center", "UA on the choosing side, %"]
    assert (shown["kl"].get_yscale(), shown["center"].get_yscale()) == ("linear", "log")
    tested = [line.get_xydata()[0].tolist() for line in shown["kl"].lines if line.get_marker() == "o"]
    assert tested == [[2, 0.5], [1, 1]]


def test_a_fold_that_went_on_with_other_losses_is_missing_in_the_panels_of_the_others():
    first = {"epoch": [1, 2], "total": [3, 2], "kl": [1, 0.5], "selection_ua": [None, None]}
    second = {"epoch": [1, 2], "total": [3, 2], "focal": [2, 1], "selection_ua": [0.2, 0.4]}
    figure = draw_learning_curves({1: first, 2: second}, {1: 2, 2: 2})
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(shown) == ["weighted sum", "kl", "focal", "UA on the choosing side, %"]
    tested = {
        title: [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"] for title, axes in shown.items()
    }
    assert tested == {"weighted sum": [2, 2], "kl": [0.5], "focal": [1], "UA on the choosing side, %": [0.4]}


def test_what_is_no_loss_has_no_panel_of_one(tmp_path):
    record = EpochRecord(1, 1e-3, 2.0, {"kl": 1.5, "focal": 0.5}, Scores(9, 0.5, 0.4, 0.3), True, 1.5, 0.1, 88.8, 1.1)
    write_history(tmp_path / "history.csv", [record])
    assert loss_columns(read_history(tmp_path / "history.csv")) == ["total", "kl", "focal"]


def test_a_run_that_takes_its_last_epoch_has_no_selection_panel():
    history = {"epoch": [1], "total": [3.0], "kl": [1.0], "selection_ua": [None], "selection_wa": [None]}
    figure = draw_learning_curves({1: history}, {1: 1})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["weighted sum", "kl"]


def test_groups_that_lie_apart_stay_apart_on_the_map():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, (40, 60)), rng.normal(8, 1, (40, 60))]).astype(np.float32)
    mapped = embed_in_two_dimensions(points, seed=0)
    centers = mapped[:40].mean(axis=0), mapped[40:].mean(axis=0)
    own = np.linalg.norm(mapped[:40] - centers[0], axis=1)
    other = np.linalg.norm(mapped[:40] - centers[1], axis=1)
    assert (own < other).all()
    figure = draw_embeddings(mapped, ["train"] * 60 + ["test"] * 20, ["a"] * 40 + ["b"] * 40, ["a", "b"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "training, 60 clips",
        "test, unheard speakers, 20 clips",
    ]


def test_attention_is_drawn_over_the_time_of_the_clip():
    share = np.array([0.1, 0.6, 0.3], dtype=np.float32)
    times = np.array([0.1, 0.3, 0.5], dtype=np.float32)
    figure = draw_attention(times, share, "x", 0.6, np.sin(np.arange(9600) / 10).astype(np.float32))
    assert figure.axes[0].get_xlim() == pytest.approx((0, 0.6))
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [10, 60, 30], rtol=1e-6)
    assert as_png(draw_attention(times, share, "x", 0.6)).startswith(b"\x89PNG")


def test_an_svg_of_the_page_takes_its_neutral_colours_from_the_theme():
    svg = as_svg(draw_rates([Rate("a", 0.5)], "UA"))
    themed = as_themed_svg(svg).decode()
    body = re.sub(r"<style>.*?</style>", "", themed, count=1, flags=re.S)
    assert INK.encode() in svg and INK not in body
    assert "var(--ink)" in body and DARK[INK] in themed


def test_colours_are_told_apart_by_colour_blind_people():
    # Machado et al. (2009), deuteranomaly of severity 1, in linear RGB; distances in CIELAB by its formulas.
    matrix = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ matrix.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(PALETTE), 1)]
    assert distances.min() > 10


def some_embeddings():
    times_s, shares = np.array([0.1, 0.3], np.float32), np.array([0.4, 0.6], np.float32)
    attention = {"b": FrameAttention(times_s, shares, 0.5)}
    return FoldEmbeddings(("a", "b"), ("train", "test"), ("sad", "happy"), np.eye(2, dtype=np.float32), attention)


def test_embeddings_read_back_as_they_were_written(tmp_path):
    write_embeddings(tmp_path / "embeddings.npz", some_embeddings())
    found = read_embeddings(tmp_path / "embeddings.npz")
    assert (found.ids, found.sides, found.emotions) == (("a", "b"), ("train", "test"), ("sad", "happy"))
    np.testing.assert_array_equal(found.embedding, np.eye(2))
    np.testing.assert_array_equal(found.attention["b"].share, np.array([0.4, 0.6], np.float32))
    assert found.attention["b"].duration_s == 0.5


def test_embeddings_of_earlier_versions_cover_the_whole_clip(tmp_path):
    path = tmp_path / "embeddings.npz"
    write_embeddings(path, some_embeddings())
    with np.load(path) as file:
        held = {name: file[name] for name in file.files if name != "attention_durations_s"}
    np.savez_compressed(path, **held)
    assert read_embeddings(path).attention["b"].duration_s == pytest.approx(0.4)  # 0.1 s around each of two frames


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b"x" * 50])
def test_damaged_embeddings_are_told(tmp_path, damage):
    path = tmp_path / "embeddings.npz"
    write_embeddings(path, some_embeddings())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"cannot be read as embeddings .*\n  delete it and run"):
        read_embeddings(path)


def test_training_stores_embeddings_on_request_and_evaluate_draws_them(ser, tones, home):
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    assert ser(*command).exit_code == 0
    assert not list(Path("run").rglob("*.npz"))
    weights = Path("run/fold-1/model.safetensors").stat().st_mtime_ns
    again = ser(*command, "--embeddings")
    assert again.exit_code == 0, again.stderr
    assert "fold 1/2: embeddings of" in again.stderr
    assert Path("run/fold-1/model.safetensors").stat().st_mtime_ns == weights

    found = read_embeddings(Path("run/fold-1/embeddings.npz"))
    corpus = open_corpus(home / "corpora" / "tones")
    clip = next(i for i, side in zip(found.ids, found.sides, strict=True) if side == "test")
    model = load_model(Path("run/fold-1")).model
    waveform = torch.from_numpy(np.array(corpus.waveform(clip)))
    with torch.inference_mode():
        output = model(waveform[None], torch.tensor([len(waveform)]))
    np.testing.assert_allclose(found.embedding[found.ids.index(clip)], output.embedding[0], atol=1e-5)
    np.testing.assert_allclose(found.attention[clip].share, output.attention[0], atol=1e-5)
    assert found.attention[clip].share.sum() == pytest.approx(1, abs=1e-5)
    assert found.attention[clip].times_s[-1] < len(waveform) / 16_000
    assert set(found.sides) == {"train", "test"}

    result = ser("evaluate", "run", "--clip", clip)
    assert result.exit_code == 0, result.stderr
    names = {path.stem for path in Path("run/figures").iterdir()}
    assert {"embeddings", "attention-1"} <= names and "attention-2" not in names
    page = Path("run/report.html").read_text()
    assert f"{clip}: share of each frame in the embedding over the waveform" in page
    assert "waveform is missing" not in page
    ser("evaluate", "run")
    assert Path("run/figures/attention-2.png").exists()
    (home / "corpora").rename(home / "elsewhere")
    ser("evaluate", "run", "--clip", clip)
    assert "waveform is missing" in Path("run/report.html").read_text()
    assert not Path("run/figures/attention-2.png").exists()
