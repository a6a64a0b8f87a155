import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from sklearn.metrics import confusion_matrix as reference_matrix

from ser_cli.errors import SerError
from ser_cli.metrics import confusion_matrix, cross_entropy, score

LABELS = ("sad", "angry", "neutral", "happy")
"""Not sorted: the order of the labels is the model's, not the alphabet's."""


def some_predictions(seed: int, predicted: tuple[str, ...] = LABELS) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    truth = [*LABELS, *rng.choice(LABELS, size=60, p=[0.5, 0.1, 0.3, 0.1]).tolist()]
    guess = rng.choice(predicted, size=len(truth)).tolist()
    return truth, [t if rng.random() < 0.4 and t in predicted else g for t, g in zip(truth, guess, strict=True)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("predicted", [LABELS, LABELS[:3], LABELS[:1]], ids=["all", "one never", "one only"])
def test_scores_are_those_of_scikit_learn(seed, predicted):
    truth, prediction = some_predictions(seed, predicted)
    assert set(prediction) <= set(predicted)
    confusion = confusion_matrix(truth, prediction, LABELS)
    np.testing.assert_array_equal(confusion, reference_matrix(truth, prediction, labels=LABELS))
    scores = score(confusion, LABELS)
    assert scores.n == len(truth)
    assert scores.wa == pytest.approx(accuracy_score(truth, prediction))
    assert scores.ua == pytest.approx(recall_score(truth, prediction, labels=LABELS, average="macro"))
    assert scores.macro_f1 == pytest.approx(
        f1_score(truth, prediction, labels=LABELS, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_is_that_of_scikit_learn(seed):
    truth, _ = some_predictions(seed)
    probabilities = np.random.default_rng(seed).dirichlet([0.5] * len(LABELS), len(truth))
    in_order = probabilities[:, np.argsort(LABELS)]  # scikit-learn sorts its labels
    expected = log_loss(truth, in_order, labels=sorted(LABELS))
    assert cross_entropy(truth, probabilities.tolist(), LABELS) == pytest.approx(expected)


def test_cross_entropy_of_what_was_held_for_impossible_is_finite():
    assert cross_entropy(["a"], [[0.0, 1.0]], ["a", "b"]) == pytest.approx(-np.log(1e-12))


def test_scores_of_a_case_worked_by_hand():
    truth = ["a"] * 8 + ["b"] * 2
    prediction = ["a"] * 8 + ["a", "b"]
    confusion = confusion_matrix(truth, prediction, ["a", "b"])
    assert confusion.tolist() == [[8, 0], [1, 1]]
    scores = score(confusion, ["a", "b"])
    assert (scores.wa, scores.ua) == (0.9, 0.75)
    assert scores.macro_f1 == pytest.approx((16 / 17 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("truth", "prediction"), [(["sad", "bored"], ["sad", "sad"]), (["sad", "sad"], ["bored", "sad"])]
)
def test_a_label_that_is_not_declared_is_refused(truth, prediction):
    with pytest.raises(SerError) as caught:
        confusion_matrix(truth, prediction, LABELS)
    assert str(caught.value) == ("cannot score: 'bored' is not among the declared labels sad, angry, neutral, happy")


def test_a_declared_label_without_a_clip_is_refused():
    confusion = confusion_matrix(["sad", "angry", "happy"], ["sad", "neutral", "happy"], LABELS)
    with pytest.raises(SerError) as caught:
        score(confusion, LABELS)
    assert str(caught.value) == ("cannot score: no clip of the declared label 'neutral', so its recall does not exist")


def test_truth_and_prediction_of_different_length_are_a_fault_of_the_program():
    with pytest.raises(ValueError, match="shorter"):
        confusion_matrix(["sad", "sad"], ["sad"], LABELS)
