"""What classifying takes on one core: time against that of the sound, and memory beyond what torch takes by itself.

The model is that of the shipped recipe `conformer` with random weights, which cost what trained ones do. Clips are
stored noise, all of it loud, so that nothing is cut off as silence. Time is that of the processor on all threads of
the process: it is what one core has to give, and does not count what else the machine does. Each size has a process of
its own, since a process does not give back all memory: `python -m tests.benchmarks.inference_cost` is what `measure`
starts. Torch by itself is `import torch` and a first small convolution, which sets its libraries up.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measuring import Measured, in_own_process, resident_mb

SIZES = (
    # Clips, their seconds, clips or windows in a batch, whether long ones are heard as a whole.
    (64, 4.0, 1, True),
    (160, 4.0, 16, True),
    (1, 300.0, 16, False),
    (1, 120.0, 1, True),  # the longest that `ser predict` hears at once
)
WANTED_MEMORY = "300 MB at most"
TIMES_REAL_TIME = 50


def measure() -> Iterator[Measured]:
    """Clips one at a time, in batches, and a long recording, in windows and as a whole."""
    for clips, length_s, batch, whole in SIZES:
        options = ["--clips", clips, "--seconds", length_s, "--batch", batch, *(["--whole"] if whole else [])]
        taken = in_own_process("tests.benchmarks.inference_cost", options)
        sound_s = clips * length_s
        heard = "as a whole" if whole else f"{batch} windows at a time"
        number = f"{clips} clips of {length_s:g} s, {batch} at a time" if clips > 1 else f"{length_s:g} s, {heard}"
        rate = f"{1 / TIMES_REAL_TIME:g} at most"
        yield Measured("inference: the sound's own time", number, taken["seconds"], sound_s, "s", rate)
        yield Measured(
            "inference: memory, beyond torch's", number, taken["beyond_mb"], taken["torch_mb"], "MB", WANTED_MEMORY
        )


def measure_size(clips: int, length_s: float, batch: int, *, whole: bool) -> dict[str, float]:
    """Processor seconds of classifying some clips, megabytes of torch by itself, and megabytes beyond these.

    Args:
        clips: how many.
        length_s: of each.
        batch: clips, or windows of clips, at a time.
        whole: part no clip into windows, however long.
    """
    import torch

    torch.set_num_threads(1)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))
    torch_mb = resident_mb("VmRSS")

    from ser_cli.inference import classify_stored
    from ser_cli.models.building import build_model
    from ser_cli.recipe import load_recipe
    from tests.data.stored import stored_corpus

    recipe = load_recipe("conformer")
    model = build_model(recipe, num_classes=8)
    samples = round(16_000 * length_s)
    with tempfile.TemporaryDirectory() as folder:
        corpus = stored_corpus(Path(folder), {f"{i:05d}": samples for i in range(clips)}, sounding=samples)
        ids = list(corpus.by_id)
        Path("/proc/self/clear_refs").write_text("5")  # drawing the noise is no part of it

        def classify(wanted: list[str]) -> None:
            classify_stored(model, corpus, wanted, batch, max_clip_s=math.inf if whole else recipe.training.max_clip_s)

        classify(ids[:batch])  # the first batch plans its kernels
        began = time.process_time()
        classify(ids)
        seconds = time.process_time() - began
    return {"seconds": seconds, "torch_mb": torch_mb, "beyond_mb": resident_mb("VmHWM") - torch_mb}


def _main() -> None:
    parser = argparse.ArgumentParser(description="Classifying clips of one size; prints seconds and MB as JSON.")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    chosen = parser.parse_args()
    print(json.dumps(measure_size(chosen.clips, chosen.seconds, chosen.batch, whole=chosen.whole)))


if __name__ == "__main__":
    _main()
