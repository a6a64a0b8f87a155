"""One layer of WavLM-Large, forward and backward, against the layer of `transformers`.

    python -m tests.benchmarks.attention ours --clips 2 --seconds 15

measures one of the two in a process of its own, as peak memory needs, and prints JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.measuring import Measured

ROUNDS = 3
"""Processes of each, taking turns, so that what else the machine does falls on both."""
STEPS = 3
GPU_STEPS = 20
MEGABYTE = 1_000_000
CPU_SIZES = ((2, 15, 0.0), (2, 15, 0.1), (4, 15, 0.0), (2, 30, 0.0), (2, 60, 0.0))
"""Clips, their seconds, and dropout."""
GPU_SIZES = ((16, 15, 0.0), (16, 15, 0.1), (4, 60, 0.0))


def measure() -> Iterator[Measured]:
    """Time and memory on the CPU, and on a GPU in bf16 where there is one."""
    import torch

    for clips, seconds, dropout in CPU_SIZES:
        rows = _compare("cpu", clips, seconds, dropout)
        size = _size(clips, seconds, dropout)
        yield Measured("attention: a WavLM-Large layer, time", size, *rows["layer_s"], "s", "1 at most")
        yield Measured("attention: a WavLM-Large layer, peak memory", size, *rows["layer_mb"], "MB", "1 at most")
    if torch.cuda.is_available():
        for clips, seconds, dropout in GPU_SIZES:
            rows = _compare("cuda", clips, seconds, dropout)
            size = f"{_size(clips, seconds, dropout)}, bf16, {torch.cuda.get_device_name()}"
            times = [1000 * value for value in rows["layer_s"]]
            yield Measured("attention: a WavLM-Large layer, time", size, *times, "ms", "0.67 at most")
            yield Measured("attention: its attention, peak memory", size, *rows["attention_mb"], "MB", "0.25 at most")


def _size(clips: int, seconds: float, dropout: float) -> str:
    return f"{clips} clips of {seconds:g} s" + (f", dropout {dropout:g}" if dropout else "")


def _compare(device: str, clips: int, seconds: float, dropout: float) -> dict[str, tuple[float, float]]:
    """Medians of ours and of the library's, by what was measured."""
    told: dict[str, list[dict[str, float]]] = {"ours": [], "library": []}
    for _ in range(ROUNDS):
        for whose, results in told.items():
            command = [sys.executable, "-m", "tests.benchmarks.attention", whose, "--device", device]
            command += ["--clips", str(clips), "--seconds", str(seconds), "--dropout", str(dropout)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(run.stdout))
    ours, library = told.values()
    return {key: (median(r[key] for r in ours), median(r[key] for r in library)) for key in ours[0]}


def measure_layer(
    whose: str, device: str, clips: int, seconds: float, dropout: float, width: int = 1024
) -> dict[str, float]:
    """Seconds of a step of a layer, and its peak memory and that of its attention in MB above what stood before.

    Args:
        whose: `ours` or `library`.
        device: `cpu`, in float32, or `cuda`, in bf16 by autocast.
        clips: of the batch, the last of them a fifth shorter.
        seconds: of the longest clip.
        dropout: of attention and layer.
        width: of the layer; WavLM-Large has 1024.
    """
    import torch
    from transformers import WavLMConfig
    from transformers.models.wavlm.modeling_wavlm import WavLMEncoderLayerStableLayerNorm

    from ser_cli.models.wavlm_attention import stream_attention

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=width, num_attention_heads=width // 64, intermediate_size=4 * width, attention_dropout=dropout,
        hidden_dropout=dropout, activation_dropout=0.0,
    )  # fmt: skip
    layer = WavLMEncoderLayerStableLayerNorm(config).to(device).train()
    if whose == "ours" and not stream_attention(layer):
        raise RuntimeError("this version of transformers has another attention")
    frames = int(seconds * 50) - 1
    hidden = torch.randn(clips, frames, width, device=device, requires_grad=True)
    mask = torch.ones(clips, frames, dtype=torch.bool, device=device)
    mask[-1, frames * 4 // 5 :] = False

    def step(part: torch.nn.Module) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            output = part(hidden, attention_mask=mask)[0]
        output.float().square().mean().backward()

    if device == "cpu":
        peak = _peak_on_cpu(lambda: step(layer))
        return {"layer_s": _seconds(lambda: step(layer), STEPS), "layer_mb": peak}
    step(layer)  # compiles
    torch.cuda.synchronize()
    return {
        "layer_s": _seconds(lambda: (step(layer), torch.cuda.synchronize()), GPU_STEPS),
        "layer_mb": _peak_on_gpu(lambda: step(layer)),
        "attention_mb": _peak_on_gpu(lambda: step(layer.attention)),
    }


def _seconds(work: Callable[[], object], steps: int) -> float:
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _peak_on_cpu(work: Callable[[], object]) -> float:
    """Of the process, by Linux, above what it holds at the start."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew: importing may have needed more
    work()
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise RuntimeError(f"/proc/self/status has no {key}")


def _peak_on_gpu(work: Callable[[], object]) -> float:
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / MEGABYTE


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("whose", choices=("ours", "library"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--dropout", type=float, default=0.0)
    print(json.dumps(measure_layer(**vars(parser.parse_args()))))


if __name__ == "__main__":
    _main()
