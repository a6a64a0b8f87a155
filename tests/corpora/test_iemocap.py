import os
from collections import Counter

import pytest

from ser_cli.corpora import iemocap
from ser_cli.corpora.corpus import expected_counts
from ser_cli.data.votes import parse_votes
from tests.corpora.iemocap_tree import (
    ALL_CODES,
    CODES,
    FOUR,
    HEADER,
    IMPROVISED,
    IMPROVISED_PER_SESSION,
    IRREGULAR,
    PER_SESSION_4,
    PER_SESSION_ALL,
    PER_SPEAKER,
    SCRIPTED,
    block,
    published_turns,
    write,
    write_dialog,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release"
    for dialog, turns in published_turns().items():
        write_dialog(root / f"Session{int(dialog[3:5])}", dialog, turns)
    first = root / "Session1/dialog"
    for folder in ("Attribute", "Categorical", "Self-evaluation"):
        write(first / f"EmoEvaluation/{folder}/Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Anger; ()\n")
    write(first / "EmoEvaluation/Categorical/Ses01F_impro01.txt", block("Ses01F_impro01_F000", "dis"))
    write(first / "EmoEvaluation/._Ses01F_impro01.txt", b"\0\5\x16\7Mac OS X")
    write(first / "EmoEvaluation/.DS_Store", b"\0")
    write(first / "MOCAP_rotated/Ses01F_impro01.txt", block("Ses01F_impro01_F000", "fea"))
    write(root / "Session1/sentences/wav/Ses01F_impro01/._Ses01F_impro01_F000.wav", b"\0\5\x16\7")
    return root


@pytest.fixture(scope="module")
def listing(corpus):
    return iemocap.read(corpus)


def test_the_published_tree_has_10039_turns_in_the_published_numbers(listing):
    assert listing.problems == ()
    assert listing.missing == ()
    assert len(listing.utterances) == 10039
    assert Counter(dict(u.extra)["code"] for u in listing.utterances) == ALL_CODES
    assert Counter(u.emotion for u in listing.utterances) == {
        **{"no-agreement": 2507, "frustrated": 1849, "neutral": 1708, "angry": 1103, "sad": 1084, "excited": 1041},
        **{"happy": 595, "surprised": 107, "fearful": 40, "other": 3, "disgust": 2},
    }
    assert Counter(u.session for u in listing.utterances) == PER_SESSION_ALL
    assert Counter(u.speaker for u in listing.utterances) == {s: row[-1] for s, row in PER_SPEAKER.items()}
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)
    assert Counter(u.gender for u in listing.utterances) == {
        "female": 873 + 859 + 1048 + 987 + 1033,
        "male": 946 + 952 + 1088 + 1116 + 1137,
    }
    assert all((u.gender == "female") == (u.speaker[2] == "F") for u in listing.utterances)
    assert listing.notes == (f"{len(list(published_turns()))} files of a whole dialog left out",)


def test_the_four_classes_have_the_published_numbers_of_each_speaker_and_session(listing):
    cells = Counter((u.speaker, dict(u.extra)["code"]) for u in listing.utterances)
    for speaker, row in PER_SPEAKER.items():
        assert tuple(cells[speaker, code] for code in CODES) == row[:5]
    kept = [u for u in listing.utterances if u.emotion in iemocap.CORPUS.label_sets[0].label_of]
    assert len(kept) == 5531
    assert Counter(u.session for u in kept) == PER_SESSION_4
    assert Counter(iemocap.CORPUS.label_sets[0].label_of[u.emotion] for u in kept) == {
        **{"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708},
    }


def test_the_improvised_and_scripted_halves_have_the_published_numbers(listing):
    four = [u for u in listing.utterances if u.emotion in FOUR]
    improvised = [u for u in four if dict(u.extra)["scenario"] == "improvised"]
    scripted = [u for u in four if dict(u.extra)["scenario"] == "scripted"]
    assert Counter(u.emotion for u in improvised) == IMPROVISED
    assert Counter(u.emotion for u in scripted) == SCRIPTED
    assert Counter(u.session for u in improvised) == IMPROVISED_PER_SESSION
    assert (len(improvised), len(scripted)) == (2943, 2588)
    assert sum(u.emotion != "excited" for u in improvised) == 2280
    assert Counter(dict(u.extra)["scenario"] for u in listing.utterances) == {"improvised": 4784, "scripted": 5255}


def test_the_speaker_is_the_last_letter_and_not_the_one_of_the_dialog(listing):
    four = [u for u in listing.utterances if u.emotion in FOUR]
    assert sum(dict(u.extra)["dialog"][5] != u.speaker[2] for u in four) == 2750


def test_irregular_dialogs_are_read_by_their_fields(listing):
    dialogs = Counter(dict(u.extra)["dialog"] for u in listing.utterances)
    assert {dialog: dialogs[dialog] for dialog in IRREGULAR} == IRREGULAR
    turn = next(u for u in listing.utterances if u.id == "Ses03M_impro05a_F000")
    assert (turn.speaker, turn.gender, turn.session) == ("03F", "female", "03")
    turn = next(u for u in listing.utterances if u.id == "Ses05M_script01_1b_M000")
    assert (turn.speaker, turn.gender, turn.session) == ("05M", "male", "05")


@pytest.mark.parametrize(
    ("name", "labels", "turns"),
    [
        ("4", ("angry", "happy", "sad", "neutral"), 5531),
        ("4-no-excited", ("angry", "happy", "sad", "neutral"), 4490),
        ("5", ("angry", "happy", "sad", "neutral", "frustrated"), 5531 + 1849),
        ("6", ("angry", "happy", "excited", "sad", "neutral", "frustrated"), 5531 + 1849),
    ],
)
def test_each_label_set_keeps_the_published_number_of_turns(listing, name, labels, turns):
    chosen = next(each for each in iemocap.CORPUS.label_sets if each.name == name)
    assert chosen.labels == labels
    assert sum(u.emotion in chosen.label_of for u in listing.utterances) == turns


def test_the_default_label_set_is_the_one_of_the_papers():
    assert iemocap.CORPUS.label_sets[0].name == "4"
    assert iemocap.CORPUS.label_sets[0].label_of["excited"] == "happy"


def test_the_expected_counts_are_the_published_ones():
    counts = expected_counts("iemocap")
    assert counts.utterances == 10039
    assert counts.emotion == {iemocap.EMOTIONS[code]: number for code, number in ALL_CODES.items()}
    assert counts.session == PER_SESSION_ALL
    assert counts.speaker == {speaker: row[-1] for speaker, row in PER_SPEAKER.items()}


def test_the_parent_folder_a_session_and_half_a_session_are_read_too(corpus, listing):
    assert iemocap.read(corpus.parent).utterances == listing.utterances
    assert len(iemocap.read(corpus / "Session3").utterances) == 2136
    dialogs_alone = iemocap.read(corpus / "Session3/dialog")
    assert dialogs_alone.utterances == ()
    assert len(dialogs_alone.missing) == 2136


def test_recordings_without_their_evaluations_are_one_problem(corpus):
    folder = corpus / "Session4/sentences/wav"
    listing = iemocap.read(folder)
    assert not listing.utterances
    assert listing.problems == (
        f"{folder}: 2,103 recordings and no evaluation file; "
        "give the folder that holds both sentences and dialog/EmoEvaluation",
    )


def test_the_order_of_a_directory_listing_does_not_matter(corpus, monkeypatch):
    forwards = iemocap.read(corpus / "Session1")
    walk = os.walk

    def backwards(*args, **kwargs):
        for folder, inner, names in walk(*args, **kwargs):
            inner.reverse()
            yield folder, inner, names[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert iemocap.read(corpus / "Session1") == forwards


TURN = "Ses01F_impro01_M003"


def test_a_turn_is_read_from_its_name_its_evaluation_and_its_transcript(tmp_path):
    write_dialog(
        tmp_path, "Ses01F_impro01", [(TURN, "exc", ("Excited", "Happiness; Excited; Excitement", "Neutral"))], ".WAV"
    )
    (turn,) = iemocap.read(tmp_path).utterances
    assert (turn.id, turn.emotion, turn.speaker, turn.session, turn.gender, turn.text) == (
        *(TURN, "excited", "01M", "01", "male", "Excuse me."),
    )
    assert turn.path == str((tmp_path / f"sentences/wav/Ses01F_impro01/{TURN}.WAV").resolve())
    assert dict(turn.extra) == {
        "dialog": "Ses01F_impro01",
        "scenario": "improvised",
        "code": "exc",
        "valence": "2.5",
        "activation": "3.0",
        "dominance": "3.5",
        "start_s": "6.2901",
        "end_s": "8.2901",
        "votes": "excited:1.5 neutral:1 happy:0.5",
    }


def test_what_actors_say_of_themselves_is_no_vote(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu")])
    (turn,) = iemocap.read(tmp_path).utterances
    assert "C-F1:\tAnger" in (tmp_path / "dialog/EmoEvaluation/Ses01F_impro01.txt").read_text()
    assert parse_votes(dict(turn.extra)["votes"]) == {"neutral": 3}


def test_every_word_of_the_raters_has_a_common_word(tmp_path):
    words = (
        *("Anger", "Happiness", "Excited", "Sadness", "Neutral", "Neutral state", "Frustration"),
        *("Surprise", "Fear", "Disgust", "Other"),
    )
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "xxx", words)])
    (turn,) = iemocap.read(tmp_path).utterances
    assert turn.emotion == "no-agreement"
    assert parse_votes(dict(turn.extra)["votes"]) == {
        **dict.fromkeys(("angry", "happy", "excited", "sad", "frustrated", "surprised", "fearful", "disgust"), 1),
        **{"neutral": 2, "other": 1},
    }


def test_turns_without_raters_repeated_raters_and_unknown_words_are_told(tmp_path):
    other = "Ses01F_impro01_F000"
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "ang", ()), (other, "ang", ("Anger", "Bliss", "Sadness"))])
    path = tmp_path / "dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("C-E4:", "C-E2:"))
    listing = iemocap.read(tmp_path)
    first, second = listing.utterances
    assert dict(first.extra)["votes"] == "angry:1"
    assert "votes" not in dict(second.extra)
    assert listing.notes[1:] == (
        "1 rater line that repeat a rater of the same turn left out",
        "1 choice of raters left out, in unknown words: 'bliss'",
        "1 turn without rater lines kept without votes",
    )


def test_raters_below_a_broken_line_do_not_vote_for_the_turn_before(tmp_path):
    other = "Ses01F_impro01_F000"
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "ang", ("Anger",)), (other, "sad", ("Sadness",))])
    path = tmp_path / "dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text(path.read_text().replace(f"{other}\tsad\t[", f"{other}\t["))
    listing = iemocap.read(tmp_path)
    (turn,) = listing.utterances
    assert dict(turn.extra)["votes"] == "angry:1"
    assert "1 line of evaluation files that cannot be read left out" in listing.notes
    assert listing.problems == (
        f"{tmp_path}/sentences/wav/Ses01F_impro01/{other}.wav: no evaluation file has its turn",
    )


def test_scores_that_are_no_numbers_are_left_out(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "ang", ("Anger",), 1.0, "NaN, 3.0000, nan")])
    (turn,) = iemocap.read(tmp_path).utterances
    assert dict(turn.extra).keys() & {"valence", "activation", "dominance"} == {"activation"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_label_files_are_read_in_any_encoding_and_with_any_line_ends(tmp_path, encoding):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "fru", ("Frustration",))])
    for folder in ("EmoEvaluation", "transcriptions"):
        path = tmp_path / f"dialog/{folder}/Ses01F_impro01.txt"
        text = path.read_text().replace("Excuse me.", "Café?").replace("\n", "\r\n")
        path.write_bytes(text.encode(encoding))
    (turn,) = iemocap.read(tmp_path).utterances
    assert (turn.emotion, turn.text, dict(turn.extra)["votes"]) == ("frustrated", "Café?", "frustrated:1")


def test_a_flat_copy_is_judged_by_content(tmp_path):
    write(tmp_path / f"{TURN}.flac", "sound")
    write(tmp_path / "Ses01F_impro01.txt", HEADER + block(TURN, "sad", ("Sadness",)))
    write(tmp_path / "text/Ses01F_impro01.txt", f"{TURN} [006.2901-008.2357]: Where?\n")
    write(tmp_path / "MOCAP_head/Ses01F_impro01.txt", block(TURN, "hap"))
    listing = iemocap.read(tmp_path)
    (turn,) = listing.utterances
    assert (turn.emotion, turn.text, dict(turn.extra)["votes"]) == ("sad", "Where?", "sad:1")
    assert listing.problems == ()


def test_the_innermost_folder_of_a_flat_copy_is_read(tmp_path, monkeypatch):
    folder = tmp_path / "EmoEvaluation"
    write(folder / f"{TURN}.wav", "sound")
    write(folder / "Ses01F_impro01.txt", block(TURN, "sad"))
    monkeypatch.chdir(folder)
    assert [u.id for u in iemocap.read(folder.relative_to(folder)).utterances] == [TURN]


def test_the_recordings_of_markers_are_never_opened(tmp_path, monkeypatch):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu")])
    write(tmp_path / "dialog/MOCAP_rotated/Ses01F_impro01.txt", "Frame# Time")
    opened = []
    real = iemocap.read_text
    monkeypatch.setattr(iemocap, "read_text", lambda path: opened.append(path.parent.name) or real(path))
    assert len(iemocap.read(tmp_path).utterances) == 1
    assert sorted(opened) == ["EmoEvaluation", "transcriptions"]


def test_a_doubled_tree_is_counted_once(tmp_path):
    for copy in ("IEMOCAP_full_release", "backup"):
        write_dialog(tmp_path / copy / "Session1", "Ses01F_impro01", [(TURN, "neu")])
    listing = iemocap.read(tmp_path)
    assert len(listing.utterances) == 1
    assert listing.problems == ()
    assert "1 file left out, byte for byte the clip of the same name" in listing.notes


def test_a_loop_of_links_ends(tmp_path):
    write_dialog(tmp_path / "Session1", "Ses01F_impro01", [(TURN, "neu")])
    (tmp_path / "Session1/again").symlink_to(tmp_path, target_is_directory=True)
    assert len(iemocap.read(tmp_path).utterances) == 1


def test_files_of_another_session_than_their_folder_says_are_named(tmp_path):
    write_dialog(tmp_path / "Session2", "Ses01F_impro01", [(TURN, "neu")])
    listing = iemocap.read(tmp_path)
    assert not listing.utterances
    folder = tmp_path / "Session2"
    assert listing.problems == tuple(
        f"{folder}/{file}: its name says session 1, its folder Session2"
        for file in (
            "dialog/EmoEvaluation/Ses01F_impro01.txt",
            "dialog/transcriptions/Ses01F_impro01.txt",
            f"sentences/wav/Ses01F_impro01/{TURN}.wav",
        )
    )


def test_a_turn_in_the_folder_of_another_dialog_is_named(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu")])
    (tmp_path / "sentences/wav/Ses01F_impro01").rename(tmp_path / "sentences/wav/Ses01F_impro02")
    listing = iemocap.read(tmp_path)
    assert listing.problems == (
        f"{tmp_path}/sentences/wav/Ses01F_impro02/{TURN}.wav: "
        "its name says dialog Ses01F_impro01, its folder Ses01F_impro02",
    )
    assert listing.missing == (TURN,)


def test_a_turn_that_is_labelled_twice_differently_is_named(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu"), (TURN, "ang"), ("Ses01F_impro01_F000", "sad")])
    listing = iemocap.read(tmp_path)
    assert [u.emotion for u in listing.utterances] == ["sad"]
    path = tmp_path / "dialog/EmoEvaluation/Ses01F_impro01.txt"
    assert listing.problems == (f"{path}: evaluates turn {TURN} otherwise than {path} does",)


def test_a_label_that_does_not_exist_is_named(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "joy")])
    listing = iemocap.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (
        f"{tmp_path}/dialog/EmoEvaluation/Ses01F_impro01.txt: turn {TURN} has the unknown label 'joy'",
    )


def test_a_recording_without_evaluation_is_named_and_an_evaluation_without_recording_is_missing(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu"), ("Ses01F_impro01_F000", "neu")])
    (tmp_path / f"sentences/wav/Ses01F_impro01/{TURN}.wav").rename(
        tmp_path / "sentences/wav/Ses01F_impro01/Ses01F_impro01_F007.wav"
    )
    listing = iemocap.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["Ses01F_impro01_F000"]
    assert listing.missing == (TURN,)
    assert listing.problems == (
        f"{tmp_path}/sentences/wav/Ses01F_impro01/Ses01F_impro01_F007.wav: no evaluation file has its turn",
    )


def test_two_recordings_under_one_name_and_a_second_format(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu"), ("Ses01F_impro01_F000", "neu")])
    write(tmp_path / f"copy/{TURN}.wav", "another sound")
    write(tmp_path / "copy/Ses01F_impro01_F000.mp3", "a lossy copy")
    listing = iemocap.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["Ses01F_impro01_F000"]
    assert listing.utterances[0].path.endswith(".wav")
    assert "which has the same name" in listing.problems[0]


def test_transcripts_that_differ_give_no_text(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu")])
    write(tmp_path / "other/Ses01F_impro01.txt", f"{TURN} [006.2901-008.2357]: Something else.\n")
    listing = iemocap.read(tmp_path)
    assert [u.text for u in listing.utterances] == [""]
    assert "1 turn with transcripts that differ kept without text" in listing.notes


def test_files_of_other_names_are_counted_and_names_with_wrong_codes_are_named(tmp_path):
    write_dialog(tmp_path, "Ses01F_impro01", [(TURN, "neu")])
    write(tmp_path / "jingle.wav", "no turn")
    for name in ("Ses06F_impro01_F000", "Ses01F_impro01_X000"):
        write(tmp_path / f"{name}.wav", name)
    listing = iemocap.read(tmp_path)
    assert [u.id for u in listing.utterances] == [TURN]
    assert "1 file with a name of another kind left out" in listing.notes
    assert listing.problems == (
        f"{tmp_path}/Ses01F_impro01_X000.wav: its name is not built like Ses01F_impro01_M003",
        f"{tmp_path}/Ses06F_impro01_F000.wav: its name is not built like Ses01F_impro01_M003",
    )
