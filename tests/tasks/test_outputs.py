"""What the outputs of the tasks mean, and what is left out."""

from dataclasses import replace

import pytest
import torch

from ser_cli.corpora import msp_podcast
from ser_cli.data.batches import Batch
from ser_cli.data.manifest import UNKNOWN_SPEAKER, Utterance
from ser_cli.tasks.labels import TaskLabels
from ser_cli.tasks.outputs import TASKS, TaskOutputs, choose_outputs, texts_too_long


def clip(number: int, speaker: str, gender: str = "", text: str = "") -> Utterance:
    return Utterance(f"c{number}", f"{number}.wav", "sad", speaker, gender=gender, text=text)


CLIPS = (clip(1, "p2", "female", "Ab"), clip(2, "p1", "male", "aa"), clip(3, "p2", "", ""))


def batch_of(ids: tuple[str, ...], untouched: list[bool], unmixed: list[bool] | None = None) -> Batch:
    length = len(ids)
    return Batch(
        ids,
        torch.zeros(length, 10),
        torch.full((length,), 10),
        torch.eye(3)[:1].expand(length, 3),
        ("",) * length,
        torch.tensor(untouched),
        torch.tensor(untouched if unmixed is None else unmixed),
        torch.arange(length),
    )


def test_outputs_are_those_of_the_given_clips_alone():
    chosen = choose_outputs(TASKS, CLIPS)
    assert chosen.outputs == TaskOutputs(("female", "male"), ("p1", "p2"), ("a", "b"))
    assert chosen.left_out == {}
    assert chosen.sentences() == []
    assert [chosen.outputs.number(task) for task in TASKS] == [2, 2, 3]
    assert TaskOutputs.from_json(chosen.outputs.as_json()) == chosen.outputs


def test_tasks_without_labels_are_left_out_with_a_word():
    chosen = choose_outputs(TASKS, [clip(1, "p1", "male"), clip(2, "p1", "male")])
    assert chosen.outputs == TaskOutputs()
    assert chosen.sentences() == [
        "task gender is left out: the training clips are not of both genders",
        "task speaker is left out: the training clips are of fewer than two known speakers",
        "task characters is left out: no training clip has a text",
    ]
    assert choose_outputs(["speaker"], [clip(1, "p1"), clip(2, "p2")]).left_out == {}


def test_people_whom_nobody_named_are_no_class():
    assert UNKNOWN_SPEAKER == msp_podcast.UNKNOWN
    clips = [clip(1, "p1"), clip(2, UNKNOWN_SPEAKER), clip(3, "p3")]
    outputs = choose_outputs(TASKS, clips).outputs
    assert outputs.speaker == ("p1", "p3")
    found = TaskLabels(outputs, clips).of(batch_of(("c1", "c2", "c3"), [True] * 3))
    assert found.speaker.tolist() == [0, -1, 1]
    assert choose_outputs(TASKS, clips[:2]).outputs.speaker == ()


def test_texts_that_do_not_fit_into_their_frames_are_counted():
    outputs = choose_outputs(["characters"], CLIPS).outputs
    assert texts_too_long(outputs, CLIPS, [2, 3, 0]) == 0
    assert texts_too_long(outputs, CLIPS, [1, 2, 0]) == 2
    assert texts_too_long(TaskOutputs(), CLIPS, [0, 0, 0]) == 0


def test_mixed_and_cut_clips_and_those_without_a_label_do_not_count():
    labels = TaskLabels(choose_outputs(TASKS, CLIPS).outputs, CLIPS)
    found = labels.of(batch_of(("c1", "c2", "c3", "c1"), [True, True, True, False]))
    assert found.gender.tolist() == [0, 1, -1, -1]
    assert found.speaker.tolist() == [1, 0, 1, -1]
    assert found.characters.tolist() == [[1, 2], [1, 1], [0, 0], [0, 0]]
    assert found.character_counts.tolist() == [2, 2, 0, 0]


def test_of_a_cut_clip_the_text_alone_is_not_known():
    labels = TaskLabels(choose_outputs(TASKS, CLIPS).outputs, CLIPS)
    found = labels.of(batch_of(("c1", "c2"), [False, True], [True, True]))
    assert (found.gender.tolist(), found.speaker.tolist()) == ([0, 1], [1, 0])
    assert found.character_counts.tolist() == [0, 2]


def test_mixtures_of_a_corpus_and_texts_of_cut_clips_tell_no_output():
    mixed = replace(clip(4, "p9", "male", "xyz"), extra=(("source_a", "c1"), ("source_b", "c3")))
    assert choose_outputs(TASKS, [*CLIPS, mixed]).outputs == choose_outputs(TASKS, CLIPS).outputs
    assert choose_outputs(TASKS, [*CLIPS, clip(5, "p1", text="q")], {"c5"}).outputs.characters == ("a", "b")
    chosen = choose_outputs(["characters"], CLIPS, {"c1", "c2"})
    assert chosen.left_out == {"characters": "training.max_clip_s cuts every training clip that has a text"}
    alone = choose_outputs(["gender", "speaker"], [clip(1, "p1", "female"), mixed])
    assert set(alone.left_out) == {"gender", "speaker"}


def test_other_words_for_genders_are_named():
    (sentence,) = choose_outputs(["gender"], [clip(1, "p1", "F"), clip(2, "p2", "M")]).sentences()
    assert sentence.endswith("the training clips are not of both genders, female and male; there are F, M")


@pytest.mark.parametrize("values", [{"age": ["old"]}, {"gender": []}, {"gender": "fm"}, {"speaker": [1, 2]}])
def test_what_a_model_from_elsewhere_says_of_its_tasks_is_looked_at(values):
    with pytest.raises(ValueError, match="is no list of what the outputs of a task mean"):
        TaskOutputs.from_json(values)
