"""The benchmarks run from their command lines at toy size, and what they count is what was done; no time is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import batches, growth, inference_cost, measuring, mix, prepare, robustness, startup, steps
from tests.benchmarks.__main__ import BENCHMARKS, OF_A_RUN, main
from tests.benchmarks.measuring import Measured, StepWatch, in_own_process
from tests.benchmarks.wavlm_large import REAL, TOY, forward_flops

ROOT = Path(__file__).parent.parent
SIZES = ("10 s", "ravdess", "iemocap-like")


def table(text: str) -> list[list[str]]:
    """The cells of each row below the heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0])


def run_steps(*options: str, path: Path = ROOT) -> list[list[str]]:
    command = [sys.executable, "-m", "tests.benchmarks", "steps", *options]
    paths = {**os.environ, "PYTHONPATH": str(path)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=paths)
    assert result.returncode == 0, result.stderr
    assert "no measure of a GPU" in result.stdout
    return table(result.stdout)


def require_whole(rows: list[list[str]]) -> None:
    """See that each size has its rows, that there is a projection, and that every ratio is that of its figures."""
    whats = [row[0] for row in rows]
    for what in ("transformers.Trainer", "float32, padded", "a large matrix product", "waiting for data, of the step"):
        assert whats.count(f"steps: {what}") == len(SIZES)
    assert sum("whole experiment" in what for what in whats) == 1
    for size in SIZES:
        assert sum(f" {size}, toy size" in row[1] for row in rows) == 6
    for _, _, ours, peer, ratio, _ in rows:
        assert number(peer) > 0
        assert number(ratio) == pytest.approx(number(ours) / number(peer), abs=0.06)


def test_an_unknown_benchmark_is_told_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["lossses"])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "unknown benchmark lossses" in said.err and all(name in said.err for name in BENCHMARKS)
    assert said.out == ""


def test_every_benchmark_that_is_named_is_there():
    assert {path.stem for path in (ROOT / "tests/benchmarks").glob("*.py")} >= {*BENCHMARKS, OF_A_RUN}


@pytest.mark.parametrize("arguments", [["robustness"], ["startup", "--run", "runs/x"], ["--run", "runs/x"]])
def test_what_measures_a_run_is_told_to_need_one_before_anything_runs(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "robustness and --run RUN are given together" in said.err
    assert said.out == ""


def test_a_run_has_a_table_of_its_own(capsys, monkeypatch):
    def measure_run(folder: Path, side: str) -> tuple[list[robustness.Row], list[str]]:
        assert (folder, side) == (Path("runs/x"), "test")
        rows = [
            robustness.Row("clean", None, (0.5, 0.7), (0.5, 0.7)),
            robustness.Row("+10 dB", 3.0, *((0.5, 0.6),) * 2),
        ]
        return rows, ["Fold 3 has no test side and is left out."]

    monkeypatch.setattr(robustness, "measure_run", measure_run)
    main(["robustness", "--run", "runs/x", "--side", "test"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "Mean over 2 folds, test side",
        "",
        "| condition | UA % | change | of single folds | wanted |",
        "|---|---:|---:|---|---|",
        "| clean | 60.0 |  |  |  |",
        "| +10 dB | 55.0 | +0.0 | +0.0, +0.0 | below 3 |",
        "",
        "Fold 3 has no test side and is left out.",
    ]


def test_a_gpu_that_is_not_there_is_told_before_anything_runs(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["steps", "--device", "cuda"])
    assert "no GPU on this machine; --device cpu" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_measurement(capsys, monkeypatch):
    monkeypatch.setattr(startup, "measure", lambda: [Measured("ours: theirs", "3 clips", 1.5, 6.0, "s", "0.5 at most")])
    main(["startup"])
    row = "| ours: theirs | 3 clips | 1.50 s | 6.00 s | 0.25 | 0.5 at most |"
    assert capsys.readouterr().out.splitlines()[-1] == row


def test_start_up_is_measured_at_toy_size(capsys, monkeypatch):
    monkeypatch.setattr(startup, "ROUNDS", 1)
    monkeypatch.setattr(startup, "ANSWER_ROUNDS", 1)
    monkeypatch.setattr(startup, "TYPED", {"verbs": ("ser", "")})
    monkeypatch.setattr(startup, "SHELLS", ("bash",))
    main(["startup"])
    rows = table(capsys.readouterr().out)
    assert [row[0] for row in rows] == [
        "ser --help: bare Typer --help",
        "ser TAB for verbs, bash: bare Typer --help",
        "ser predict: import torch",
    ]


def test_preparing_and_mixing_are_measured_at_toy_size(capsys, monkeypatch):
    monkeypatch.setattr(
        prepare, "published_names", lambda: [f"03-01-0{e}-01-01-01-0{a}" for e in (3, 4) for a in (1, 2)]
    )
    monkeypatch.setattr(mix, "CLIPS", 8)
    monkeypatch.setattr(mix, "MIXTURES", 5)
    main(["prepare", "mix"])
    rows = table(capsys.readouterr().out)
    assert [row[0].split(":")[0] for row in rows] == ["prepare", "prepare again, nothing changed", "mix"]
    assert rows[0][1].startswith("4 clips") and rows[2][1].startswith("5 mixtures")


def test_the_cost_of_inference_is_measured_at_toy_size(capsys, monkeypatch):
    monkeypatch.setattr(inference_cost, "SIZES", ((3, 0.5, 2, True), (1, 20.0, 1, False)))
    main(["inference_cost"])
    time, memory, long_time, long_memory = table(capsys.readouterr().out)
    assert time[:2] == ["inference: the sound's own time", "3 clips of 0.5 s, 2 at a time"]
    assert time[3] == "1.50 s" and time[5] == "0.02 at most"
    assert memory[5] == "300 MB at most"
    assert number(memory[2]) > 0 and number(memory[3]) > 100  # torch alone takes more than 100 MB
    assert long_time[1] == long_memory[1] == "20 s, 1 windows at a time" and long_time[3] == "20.00 s"


@pytest.mark.slow
def test_batches_are_measured_at_toy_size(capsys, monkeypatch):
    for name in ("ravdess_lengths", "iemocap_like_lengths"):
        monkeypatch.setattr(batches, name, lambda: [3000 + 20 * position for position in range(512)])
    monkeypatch.setattr(batches, "STEPS", 2)
    monkeypatch.setattr(batches, "HOURS", 100_000)
    main(["batches"])
    rows = table(capsys.readouterr().out)
    assert {row[0].split(":")[0] for row in rows} == {"batches"}
    padding = [row for row in rows if "padding on" in row[0]]
    assert len(padding) == 2 and all(number(row[4]) < 1 for row in padding)


@pytest.mark.parametrize("samples", [16_000, 7_777])
@pytest.mark.parametrize("places", [16, 15])
def test_operations_are_those_that_torch_counts(samples, places):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    from ser_cli.models.classifier import EmotionClassifier
    from ser_cli.models.pretrained import PretrainedEncoder

    settings = {**TOY.encoder, "num_conv_pos_embeddings": places}
    # The library's own attention, as its authors wrote it.
    encoder = PretrainedEncoder(WavLMModel(WavLMConfig(**settings)), Wav2Vec2FeatureExtractor(do_normalize=True))
    model = EmotionClassifier(encoder, 5).train()
    # In the kernel of the equation, whose products torch knows how to count.
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        output = model(torch.randn(1, samples), torch.tensor([samples]))
    # A matrix times a vector it does not count: FLAM's weight of each frame.
    not_counted = 2 * output.projected_frames.shape[1] * settings["hidden_size"]
    assert forward_flops(settings, samples, 5) == counter.get_total_flops() + not_counted


def test_a_step_of_wavlm_large_is_about_six_operations_per_weight_and_frame():
    # 2 forward and 4 backward (Kaplan et al. 2020, section 2.1), for 300 million weights of the transformer; the
    # convolutions before it, few weights on many frames, and the attention come on top.
    frames = 499
    step = 3 * forward_flops(REAL.encoder, 160_000, 8)
    assert 1.0 < step / (6 * 24 * 12 * 1024**2 * frames) < 1.4


def test_the_watch_leaves_out_the_steps_that_warm_up(monkeypatch):
    now = iter([10.0, 17.5])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(now))
    watch = StepWatch("cpu", warm_up=2)
    assert [watch.step_done() for _ in range(5)] == [False, True, False, False, False]
    taken_s, peak_gb = watch.read()
    assert taken_s == 7.5 and 0 < peak_gb < 100


def test_peak_memory_is_that_of_the_work():
    def work() -> None:
        bytearray(64_000_000)[:] = b"\x01" * 64_000_000  # touched, so that it is resident

    assert 100 < measuring.peak_mb(work) < 300


def test_the_whole_experiment_is_all_epochs_of_all_folds():
    of_size = {"clips_per_s": 30.0, "peak_gb": 4.0, "flops": 3e12, "waited_s": 0.001, "step_s": 0.1}
    peer = {"clips_per_s": 10.0, "peak_gb": 8.0}
    told = {
        "ours": {"peak_flops": 6e12, "corpora": dict.fromkeys(SIZES, of_size)},
        "trainer": dict.fromkeys(SIZES, peer),
        "padded": dict.fromkeys(SIZES, peer),
        "experiment": {"clips": 1440, "start_s": 2.0, "first_s": 10.0, "later_s": 1.0, "end_s": 3.0},
    }
    rows = list(steps._rows(told, REAL, "a GPU", toy=False))
    experiment = rows[-1]
    assert experiment.ours == 6 * (2 + 10 + 19 * 1 + 3) and experiment.peer == 5 * 60
    wanted = {row.what: row.wanted for row in rows if "10 s" in row.size}
    assert wanted["steps: transformers.Trainer"] == "3 at least"
    assert wanted["steps: float32, padded"] == "10 at least"
    assert wanted["steps: a large matrix product"] == "0.45 at least"
    assert wanted["steps: waiting for data, of the step"] == "0.02 at most"
    product = next(row for row in rows if row.what == "steps: a large matrix product")
    assert (product.ours, product.peer, product.unit) == (3.0, 6.0, "TFLOP/s")


def test_a_process_that_fails_is_told_with_what_it_said():
    with pytest.raises(RuntimeError, match="invalid choice: 'nobody'"):
        in_own_process("tests.benchmarks.steps", ["nobody", "."])


def test_planning_is_measured_for_each_corpus(monkeypatch):
    monkeypatch.setattr(growth, "CORPORA", (32, 64, 128))
    assert [row.size for row in growth._planning()] == ["64 clips against 32", "128 clips against 64"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        ("growth", ["--clips", 2, "--seconds", 0.5], 3),
        ("losses", ["ours", 160], 2),
        ("attention", ["ours", "--clips", 2, "--seconds", 1], 2),
        ("attention", ["library", "--clips", 2, "--seconds", 1], 2),
    ],
)
def test_what_a_benchmark_starts_prints_its_figures_as_json(module, arguments, told):
    figures = in_own_process(f"tests.benchmarks.{module}", arguments)
    values = list(figures.values()) if isinstance(figures, dict) else figures
    assert len(values) == told and all(isinstance(value, float) for value in values), json.dumps(figures)
    assert all(value > 0 for value in values[:1])  # times; the memory of so little work may not show


@pytest.mark.slow
def test_training_steps_are_measured_on_a_cpu_without_anything_that_decodes_audio(tmp_path):
    # A GPU machine may have torch and transformers alone.
    blocked = "import sys\nsys.modules.update(dict.fromkeys(('soundfile', 'soxr', 'av', 'librosa')))\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    require_whole(run_steps("--device", "cpu", path=tmp_path))


@pytest.mark.gpu
def test_training_steps_are_measured_on_a_gpu():
    require_whole(run_steps("--device", "cuda", "--toy"))
