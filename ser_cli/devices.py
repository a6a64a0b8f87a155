"""Where the arithmetic happens, and in which precision."""

import torch

from ser_cli.errors import UsageError

AUTOMATIC = "auto"


def choose_device(name: str) -> torch.device:
    """The device of a name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: there is no such device on this machine.
    """
    if name == AUTOMATIC:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {name}: not on this machine ({reason})\n  here: auto, {', '.join(here)}") from None
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The mixed precision that accelerate shall use: `no`, `bf16` or `fp16`.

    Args:
        name: `auto`, `float32`, `bfloat16` or `float16`.
        device: what it runs on.

    Raises:
        UsageError: the device lacks that precision.
    """
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == AUTOMATIC:
        return "bf16" if has_bfloat16 else "no"
    if name == "bfloat16" and device.type == "cuda" and not has_bfloat16:
        raise UsageError("training.precision bfloat16: this GPU lacks it; use float16 or float32")
    if name == "float16" and device.type != "cuda":
        raise UsageError(f"training.precision float16: needs a GPU, found {device.type}; use float32")
    return {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[name]


def describe_arithmetic(device: torch.device, precision: str, processes: int) -> dict[str, object]:
    """What decides the last digits of a result, besides the seed: device, precision, threads, processes."""
    told: dict[str, object] = {
        "device": str(device),
        "precision": {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision],
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    if device.type == "cuda":
        told |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return told
