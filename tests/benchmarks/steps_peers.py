"""How others train the same network on the same clips: `transformers.Trainer`, and the plain loop of LAM code."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.measuring import StepWatch

LEARNING_RATE = 1e-4


def train_by_trainer(
    encoder: Path,
    waveforms: Sequence[NDArray[np.float32]],
    classes: Sequence[int],
    *,
    batch_size: int,
    warm_up: int,
    device: str,
) -> dict[str, float]:
    """Clips per second and GB of `transformers.Trainer`: bf16 on a GPU, fused AdamW, each batch padded to its longest.

    Args:
        encoder: folder of the WavLM whose shape and weights are taken.
        waveforms: (samples,) each; every one takes part once, in an order drawn by the trainer.
        classes: of the waveforms.
        batch_size: clips of a step.
        warm_up: steps that are not counted.
        device: `cpu` or `cuda`.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments, Wav2Vec2FeatureExtractor
    from transformers.trainer_callback import PrinterCallback

    watch = StepWatch(device, warm_up)

    class Watching(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            watch.step_done()

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(encoder)

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        padded = extractor(
            [row["waveform"] for row in rows], sampling_rate=16_000, padding=True, return_tensors="pt"
        )  # fmt: skip
        return {**padded, "labels": _tensor([row["class"] for row in rows])}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            optim="adamw_torch_fused",
            bf16=device == "cuda",
            use_cpu=device == "cpu",
            dataloader_num_workers=4 if device == "cuda" else 0,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = [{"waveform": w, "class": c} for w, c in zip(waveforms, classes, strict=True)]
        trainer = Trainer(
            model=_classifier(encoder, classes),
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[Watching()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return _told(watch, len(waveforms) - warm_up * batch_size)


def train_padded(
    encoder: Path,
    waveforms: Sequence[NDArray[np.float32]],
    classes: Sequence[int],
    *,
    padded_samples: int,
    batch_size: int,
    warm_up: int,
    device: str,
) -> dict[str, float]:
    """Clips per second and GB of a plain loop in float32 without TF32, every clip cut or padded to one length.

    Args:
        padded_samples: of every clip; public LAM code has 100,000, which is 6.25 s.

    The other arguments are those of `train_by_trainer`.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    watch = StepWatch(device, warm_up)
    model = _classifier(encoder, classes).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    padded = torch.zeros(len(waveforms), padded_samples)
    for row, waveform in zip(padded, waveforms, strict=True):
        kept = torch.from_numpy(waveform[:padded_samples].copy())
        row[: len(kept)] = kept
    data = torch.utils.data.TensorDataset(padded, _tensor(classes))
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)
    for batch, targets in loader:
        optimizer.zero_grad()
        output = model(batch.to(device), labels=targets.to(device))
        output.loss.backward()
        optimizer.step()
        output.loss.item()  # such loops print or sum it after every step
        watch.step_done()
    return _told(watch, len(waveforms) - warm_up * batch_size)


def _classifier(encoder: Path, classes: Sequence[int]) -> Any:
    from transformers import WavLMForSequenceClassification

    return WavLMForSequenceClassification.from_pretrained(encoder, num_labels=max(classes) + 1)


def _tensor(classes: Sequence[int]) -> Any:
    import torch

    return torch.tensor(classes)


def _told(watch: StepWatch, clips: int) -> dict[str, float]:
    taken_s, peak_gb = watch.read()
    return {"clips_per_s": clips / taken_s, "peak_gb": peak_gb}
