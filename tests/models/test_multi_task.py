"""The multi-task head against its layers typed out in NumPy."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch

from ser_cli.models.layers import FusedEncoder
from ser_cli.models.multi_task import CharacterBranch, ClipBranch, CoAttention, MultiTaskHead
from ser_cli.models.pretrained import load_pretrained
from ser_cli.tasks.outputs import TASKS, TaskOutputs
from tests.models.tiny import padded, save_tiny_speech_encoder, some_clips, tiny_conformer

OUTPUTS = TaskOutputs(("female", "male"), ("p1", "p2", "p3"), (" ", "a", "b"))
DIMS = (6, 5)
"""Of an embedding and of a frame."""
MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


def head(outputs: TaskOutputs = OUTPUTS, *, co_attention: bool = True, dropout: float = 0.0) -> MultiTaskHead:
    torch.manual_seed(0)
    built = MultiTaskHead(
        *DIMS, 4, outputs, hidden_dim=8, lstm_dim=7, branch_dropout=dropout, co_attention=co_attention
    ).double()
    with torch.no_grad():  # normalisations are not at their start, where faults would hide
        for module in built.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return built


def some_input(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(3, DIMS[0]))), torch.tensor(rng.normal(size=(3, 4, DIMS[1])))


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def first_layer(features: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    y = linear(features.linear, x)
    y = (y - y.mean(axis=-1, keepdims=True)) / np.sqrt(y.var(axis=-1, keepdims=True) + features.norm.eps)
    return np.maximum(0, y * features.norm.weight.detach().numpy() + features.norm.bias.detach().numpy())


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def recurrent(lstm: torch.nn.LSTM, x: np.ndarray) -> np.ndarray:
    """(frames, lstm_dim) of (frames, dim), Hochreiter and Schmidhuber with forget gates."""
    into, back, *biases = (p.detach().numpy() for p in lstm.parameters())
    hidden = cell = np.zeros(lstm.hidden_size)
    found = []
    for frame in x:
        i, f, g, o = np.split(into @ frame + back @ hidden + sum(biases), 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        found.append(hidden)
    return np.array(found)


def co_attended(fusion: CoAttention, emotion: np.ndarray, features: dict[str, np.ndarray]) -> np.ndarray:
    """Of one clip, whose frames are no padding."""
    query = linear(fusion.query, emotion)
    vectors = []
    for task, projection in fusion.projections.items():
        projected = linear(projection, features[task])
        if projected.ndim == 2:
            shares = softmax(np.array([query @ frame for frame in projected]) / np.sqrt(len(query)))
            projected = sum(share * frame for share, frame in zip(shares, projected, strict=True))
        vectors.append(projected)
    shares = softmax(np.array([query @ vector for vector in vectors]) / np.sqrt(len(query)))
    return emotion + sum(share * vector for share, vector in zip(shares, vectors, strict=True))


@pytest.mark.parametrize("co_attention", [True, False])
@pytest.mark.parametrize("learnt", list(chain.from_iterable(combinations(TASKS, n) for n in range(4))), ids="+".join)
def test_the_head_is_its_equations(learnt, co_attention):
    outputs = TaskOutputs(**{task: getattr(OUTPUTS, task) for task in learnt})
    model, (embedding, frames) = head(outputs, co_attention=co_attention).eval(), some_input()
    found = model(embedding, frames, MASK)
    assert tuple(found.tasks) == learnt
    for clip, (e, x, real) in enumerate(zip(embedding.numpy(), frames.numpy(), MASK.numpy(), strict=True)):
        fused = first_layer(model.emotion, e)
        features = {}
        for task in learnt:
            branch = model.branches[task]
            read = recurrent(branch.lstm, x[real]) if task == "characters" else e
            features[task] = first_layer(branch.features, read)
            logits = found.tasks[task][clip].detach().numpy()
            expected = linear(branch.logits, features[task])
            said = logits[real] if task == "characters" else logits
            assert said == pytest.approx(expected, rel=1e-9, abs=1e-12)
        if co_attention and learnt:
            fused = co_attended(model.fusion, fused, features)
        assert found.classifier_input[clip].detach().numpy() == pytest.approx(fused, rel=1e-9, abs=1e-12)
        assert found.logits[clip].detach().numpy() == pytest.approx(linear(model.classifier, fused), rel=1e-9)


def test_padding_changes_nothing():
    model, (embedding, frames) = head().eval(), some_input()
    other = torch.where(MASK.unsqueeze(-1), frames, 1e6)
    one, two = model(embedding, frames, MASK), model(embedding, other, MASK)
    torch.testing.assert_close(one.logits, two.logits)
    torch.testing.assert_close(one.tasks["characters"][MASK], two.tasks["characters"][MASK])


def test_gradients_are_those_of_the_values():
    model, (embedding, frames) = head().eval(), some_input()
    inputs = (embedding.requires_grad_(), frames.requires_grad_())

    def everything(e: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = model(e, x, MASK)
        return output.logits, *output.tasks.values()

    assert torch.autograd.gradcheck(everything, inputs)
    (gradient,) = torch.autograd.grad(model(embedding, frames, MASK).logits.sum(), frames)
    assert gradient[MASK].any()  # emotion reads the frames through the characters' branch
    assert not gradient[~MASK].any()


def test_every_parameter_learns_from_the_tasks_and_emotion_together():
    model, (embedding, frames) = head().eval(), some_input()
    output = model(embedding, frames, MASK)
    sum(value.square().sum() for value in (output.logits, *output.tasks.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_dropout_stands_behind_each_first_layer():
    model, (embedding, frames) = head(dropout=0.999_999).train(), some_input()
    output = model(embedding, frames, MASK)
    for task in TASKS:
        bias = model.branches[task].logits.bias
        torch.testing.assert_close(output.tasks[task], bias.expand_as(output.tasks[task]))


def test_half_precision_stays_finite():
    model, (embedding, frames) = head().float().eval(), some_input()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(1e3 * embedding.float(), 1e3 * frames.float(), MASK)
    assert all(value.isfinite().all() for value in (output.logits, *output.tasks.values()))


def test_branches_have_two_linear_layers():
    for branch in (ClipBranch(6, 8, 2, 0.1), CharacterBranch(6, 7, 8, 2, 0.1)):
        assert sum(isinstance(module, torch.nn.Linear) for module in branch.modules()) == 2


@pytest.mark.parametrize("kind", ["conformer", "wavlm", "fused"])
def test_encoders_tell_how_many_frames_they_give(tmp_path, kind):
    if kind == "conformer":
        encoder = tiny_conformer()
    else:
        encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / "wavlm", "wavlm")))
    encoder = FusedEncoder(encoder, "wavlm") if kind == "fused" else encoder
    waveforms, lengths = padded(some_clips())
    with torch.no_grad():
        _, counts = encoder.eval()(waveforms, lengths)
    assert encoder.frames_of(lengths).tolist() == counts.tolist()
