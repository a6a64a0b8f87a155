from collections import Counter
from itertools import chain, repeat

import pytest

from ser_cli.corpora import msp_improv
from ser_cli.corpora.corpus import expected_counts
from ser_cli.data.votes import parse_votes

# Published: Busso et al. 2017, table 4: turns of each label in each scenario.
PER_SCENARIO = {
    "T": {"A": 115, "S": 106, "H": 136, "N": 283, "O": 1, "X": 11},
    "R": {"A": 169, "S": 80, "H": 88, "N": 241, "O": 3, "X": 39},
    "S": {"A": 470, "S": 633, "H": 1048, "N": 1789, "O": 70, "X": 371},
    "P": {"A": 38, "S": 66, "H": 1372, "N": 1164, "O": 11, "X": 134},
}
# The EMO-SUPERB label files: turns of the woman and the man of each session, and of its scenarios. 53 turns lack.
ROWS = {
    "01": ((434, 545), {"P": 342, "R": 100, "S": 457, "T": 80}),
    "02": ((732, 690), {"P": 479, "R": 170, "S": 652, "T": 121}),
    "03": ((946, 819), {"P": 695, "R": 175, "S": 806, "T": 89}),
    "04": ((546, 562), {"P": 498, "R": 0, "S": 490, "T": 120}),
    "05": ((752, 747), {"P": 410, "R": 95, "S": 874, "T": 120}),
    "06": ((792, 820), {"P": 344, "R": 80, "S": 1068, "T": 120}),
}
# Known of the 53: 17 of P, 34 of S, 2 of T; 6 in session 05, 10 in session 06. Filler: the rest of the table, and
# that all of them are spoken by women.
LACKING = {
    "01": {"P": 17, "S": 2},
    "02": {"S": 8},
    "03": {"S": 8, "T": 1},
    "04": {"T": 1},
    "05": {"S": 6},
    "06": {"S": 10},
}


def published_turns():
    """Names and labels of 8,438 turns, so that every published table comes out.

    Filler: which of the two actors speaks a turn of a scenario, the target sentences and emotions, the numbers of
    the turns, and which turn of a scenario has which label.
    """
    names = {scenario: [] for scenario in PER_SCENARIO}
    for session, ((women, men), scenarios) in ROWS.items():
        of_women = {scenario: number * women // (women + men) for scenario, number in scenarios.items()}
        of_women["T"] += women - sum(of_women.values())
        for scenario, number in scenarios.items():
            added = LACKING[session].get(scenario, 0)
            for gender, count in (("F", of_women[scenario] + added), ("M", number - of_women[scenario])):
                for turn in range(count):
                    target = f"S{turn % 20 + 1:02d}{'AHNS'[turn // 20 % 4]}"
                    roles = gender * 2 if scenario == "R" else gender + {"F": "M", "M": "F"}[gender]
                    names[scenario].append(f"{target}-{gender}{session}-{scenario}-{roles}{turn // 80 + 1:02d}")
    for scenario, labels in PER_SCENARIO.items():
        codes = chain.from_iterable(repeat(code, number) for code, number in labels.items())
        yield from zip(names[scenario], codes, strict=True)


PRIMARY = {"A": "Angry", "H": "Happy", "S": "Sad", "N": "Neutral", "O": "Other", "X": "Other"}
ACTIVATION = {"A": 2.25, "S": 3.75}


def block(name, code="N", raters=None, scores="A:{0}; V:3.500000; D:3.000000 ; N:4.000000;"):
    lines = [f"UTD-IMPROV-{name}.avi; {code}; {scores.format(ACTIVATION.get(code, 3.0))}"]
    for number, primary in enumerate(raters if raters is not None else [PRIMARY[code]] * 5):
        lines.append(f"rater_{number:02d}-p; {primary}; {primary},Calm; A:3.000000; V:3.0; D:NaN; N:4.000000;")
    return "\n".join(lines) + "\n\n"


def write(path, data):
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def audio(root, name, suffix=".wav"):
    target, speaker, scenario, _ = name.split("-")
    path = root / f"session{int(speaker[1:])}/{target}/{scenario}/MSP-IMPROV-{name}{suffix}"
    write(path, name)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("improv") / "MSP-IMPROV"
    turns = list(published_turns())
    for name, _ in turns:
        audio(root / "Audio", name)
    write(root / "Evalution.txt", "".join(block(name, code) for name, code in turns))
    audio(root / "Audio", "S01A-F01-P-FM01", ".avi")
    write(root / "Audio/session1/S01A/P/._MSP-IMPROV-S01A-F01-P-FM01.wav", b"\0\5\x16\7")
    write(root / "Audio/session1/.DS_Store", b"\0")
    return root


@pytest.fixture(scope="module")
def listing(corpus):
    return msp_improv.read(corpus)


def test_the_published_tree_has_8438_turns_in_the_published_numbers(listing):
    assert listing.problems == ()
    assert listing.missing == ()
    assert len(listing.utterances) == 8438
    assert Counter(u.emotion for u in listing.utterances) == {
        **{"angry": 792, "happy": 2644, "neutral": 3477, "sad": 885, "other": 85, "no-agreement": 555},
    }
    sessions = Counter(u.session for u in listing.utterances)
    assert (sessions["05"], sessions["06"]) == (1505, 1622)
    assert sum(sessions[session] for session in ("01", "02", "03", "04")) == 5311
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_speakers_of_the_published_tree_are_twelve_women_and_men(listing):
    speakers = Counter(u.speaker for u in listing.utterances)
    assert sorted(speakers) == [f"{gender}{session:02d}" for gender in "FM" for session in range(1, 7)]
    assert {speaker: number for speaker, number in speakers.items() if speaker[0] == "M"} == {
        **{"M01": 545, "M02": 690, "M03": 819, "M04": 562, "M05": 747, "M06": 820},
    }
    assert {(u.speaker[0], u.gender) for u in listing.utterances} == {("F", "female"), ("M", "male")}
    assert all(u.speaker[1:] == u.session for u in listing.utterances)


def test_the_scenarios_have_the_published_numbers(listing):
    codes = Counter(dict(u.extra)["scenario_code"] for u in listing.utterances)
    assert codes == {"T": 652, "R": 620, "S": 4381, "P": 2785}
    names = Counter(dict(u.extra)["scenario"] for u in listing.utterances)
    assert names == {"improvised": 652 + 4381, "read": 620, "natural": 2785}
    read = Counter(u.session for u in listing.utterances if dict(u.extra)["scenario"] == "read")
    assert read == {"01": 100, "02": 170, "03": 175, "05": 95, "06": 80}
    for scenario, labels in PER_SCENARIO.items():
        of_scenario = (dict(u.extra) for u in listing.utterances if dict(u.extra)["scenario_code"] == scenario)
        assert Counter(extra["code"] for extra in of_scenario) == labels


def test_the_four_classes_are_7798_turns(listing):
    four = msp_improv.CORPUS.label_sets[0]
    assert (four.name, four.labels) == ("4", ("angry", "happy", "sad", "neutral"))
    assert sum(u.emotion in four.label_of for u in listing.utterances) == 7798


def test_the_expected_counts_are_the_published_ones():
    counts = expected_counts("msp-improv")
    assert counts.utterances == 8438
    totals = sum((Counter(labels) for labels in PER_SCENARIO.values()), Counter())
    assert counts.emotion == {msp_improv.EMOTIONS[code]: number for code, number in totals.items()}


def test_a_note_tells_which_way_the_raw_scale_of_activation_runs(listing, tmp_path):
    assert listing.notes == ("activation is 2.25 on average for angry and 3.75 for sad turns: high values mean calm",)
    names = ("S01A-F01-S-FM01", "S01A-M01-S-FM01")
    for name in names:
        audio(tmp_path, name)
    # An unofficial copy may have been turned round.
    scores = (("A", "A:4.5;"), ("S", "A:1.5;"))
    text = "".join(block(name, code, scores=score) for name, (code, score) in zip(names, scores, strict=True))
    write(tmp_path / "Evaluation.txt", text)
    assert "high values mean aroused" in msp_improv.read(tmp_path).notes[-1]


def test_the_parent_folder_and_one_session_are_read_too(corpus, listing, tmp_path):
    assert msp_improv.read(corpus.parent).utterances == listing.utterances
    (tmp_path / "session6").symlink_to(corpus / "Audio/session6", target_is_directory=True)
    (tmp_path / "Evaluation.txt").symlink_to(corpus / "Evalution.txt")
    part = msp_improv.read(tmp_path)
    assert len(part.utterances) == 1622
    assert len(part.missing) == 8438 - 1622
    assert part.missing[0] == "MSP-IMPROV-S01A-F01-P-FM01"


def test_recordings_without_the_evaluation_file_are_one_problem(corpus):
    folder = corpus / "Audio/session6"
    listing = msp_improv.read(folder)
    assert not listing.utterances
    assert listing.problems == (
        f"{folder}: 1,622 recordings and no label; give the folder that holds Evalution.txt as well",
    )


NAME = "S08A-F03-S-MF02"
TURN = f"MSP-IMPROV-{NAME}"


@pytest.mark.parametrize("spelling", ["Evalution.txt", "Evaluation.txt", "labels/EVALUATION.TXT"])
def test_a_turn_is_read_from_its_name_and_the_evaluation_file(tmp_path, spelling):
    path = audio(tmp_path, NAME, ".WAV")
    write(tmp_path / spelling, block(NAME, "H", ["Happy", "Happy", "Other", "Neutral"]))
    write(tmp_path / f"All_human_transcriptions/{TURN}.txt", "Well,\n  I knew it.\n")
    (turn,) = msp_improv.read(tmp_path).utterances
    assert (turn.id, turn.path, turn.emotion, turn.speaker, turn.session, turn.gender, turn.text) == (
        *(TURN, str(path.resolve()), "happy", "F03", "03", "female", "Well, I knew it."),
    )
    assert dict(turn.extra) == {
        "scenario": "improvised",
        "scenario_code": "S",
        "sentence": "08",
        "intended": "angry",
        "code": "H",
        "activation": "3.0",
        "valence": "3.5",
        "dominance": "3.0",
        "naturalness": "4.0",
        "votes": "happy:2 neutral:1 other:1",
    }


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ("A:2.5; V:3.5; D:3.0;", {"activation": "2.5", "valence": "3.5", "dominance": "3.0"}),
        ("A:2.5;V:NaN;D:NaN ; N:NaN;", {"activation": "2.5"}),
        (
            "A:NaN; V:1.500000; D:2.000000 ; N:4.333333",
            {"valence": "1.5", "dominance": "2.0", "naturalness": "4.333333"},
        ),
        ("", {}),
    ],
)
def test_scores_that_are_missing_or_no_number_are_left_out(tmp_path, scores, kept):
    audio(tmp_path, NAME)
    write(tmp_path / "Evalution.txt", block(NAME, "H", scores=scores))
    (turn,) = msp_improv.read(tmp_path).utterances
    names = {"activation", "valence", "dominance", "naturalness"}
    assert {name: value for name, value in turn.extra if name in names} == kept
    assert parse_votes(dict(turn.extra)["votes"]) == {"happy": 5}


def test_raters_that_stand_there_twice_count_once(tmp_path):
    audio(tmp_path, NAME)
    rater = "ab_1-p; Sad; Sad,Depressed; words; more, A:1; A:3.0; V:3.0; D:3.0; N:3.0;\n"
    other = rater.replace("ab_1-p; Sad", "ab_1; Neutral")
    write(tmp_path / "Evalution.txt", block(NAME, "S", []).strip() + "\n" + rater + rater + other)
    listing = msp_improv.read(tmp_path)
    assert dict(listing.utterances[0].extra)["votes"] == "neutral:1 sad:1"
    assert listing.notes == ("1 rater line that repeat a rater of the same turn left out",)


def test_turns_without_raters_and_lines_of_another_kind_are_told(tmp_path):
    audio(tmp_path, NAME)
    write(tmp_path / "Evalution.txt", "made by hand\n" + block(NAME, "H", []) + "rater_01; Bored; ; A:3.0;\n")
    listing = msp_improv.read(tmp_path)
    assert "votes" not in dict(listing.utterances[0].extra)
    assert listing.notes == (
        "2 lines of the label files that name neither a turn nor a rater left out",
        "1 turn without rater lines kept without votes",
    )


@pytest.mark.parametrize(
    "broken", ["UTD-IMPROV-S08A-F03-S-MF03; A; A:3.0;", "UTD-IMPROV-S08A-F03-S-MF03.avi A; A:3.0;"]
)
def test_raters_below_a_broken_line_do_not_vote_for_the_turn_before(tmp_path, broken):
    audio(tmp_path, NAME)
    raters = block(NAME, "A").partition("\n")[2]
    write(tmp_path / "Evalution.txt", block(NAME, "H", ["Happy"]) + broken + "\n" + raters)
    listing = msp_improv.read(tmp_path)
    assert dict(listing.utterances[0].extra)["votes"] == "happy:1"
    assert listing.notes == ("6 lines of the label files that name neither a turn nor a rater left out",)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_label_files_are_read_in_any_encoding_and_with_any_line_ends(tmp_path, encoding):
    audio(tmp_path, NAME)
    text = block(NAME, "H", ["Happy"]).replace("Calm", "Blasé").replace("\n", "\r\n")
    write(tmp_path / "Evalution.txt", text.encode(encoding))
    write(tmp_path / f"Text/{TURN}.txt", "Café?\r\n".encode(encoding))
    (turn,) = msp_improv.read(tmp_path).utterances
    assert (turn.emotion, turn.text, dict(turn.extra)["votes"]) == ("happy", "Café?", "happy:1")


def test_a_flat_copy_with_video_names_is_read(tmp_path):
    write(tmp_path / f"UTD-IMPROV-{NAME}.flac", "sound")
    write(tmp_path / "Evalution.txt", block(NAME, "X"))
    (turn,) = msp_improv.read(tmp_path).utterances
    assert (turn.id, turn.emotion) == (TURN, "no-agreement")


def test_a_doubled_tree_and_a_loop_of_links_are_counted_once(tmp_path):
    for copy in ("MSP-IMPROV", "backup"):
        audio(tmp_path / copy / "Audio", NAME)
        write(tmp_path / copy / "Evalution.txt", block(NAME, "O"))
    (tmp_path / "backup/again").symlink_to(tmp_path, target_is_directory=True)
    listing = msp_improv.read(tmp_path)
    assert [u.emotion for u in listing.utterances] == ["other"]
    assert listing.problems == ()
    assert listing.notes == ("1 file left out, byte for byte the clip of the same name",)


def test_two_evaluation_files_that_disagree_are_named(tmp_path):
    other = "S08A-M03-S-MF02"
    audio(tmp_path, NAME)
    audio(tmp_path, other)
    write(tmp_path / "Evalution.txt", block(NAME, "H") + block(other, "N"))
    write(tmp_path / "old/Evaluation.txt", block(NAME, "S") + block(other, "N"))
    listing = msp_improv.read(tmp_path)
    assert [u.speaker for u in listing.utterances] == ["M03"]
    assert listing.problems == (
        f"{tmp_path}/old/Evaluation.txt: labels {TURN} otherwise than {tmp_path}/Evalution.txt",
    )


def test_a_session_folder_that_disagrees_is_named(tmp_path):
    path = audio(tmp_path, NAME)
    (tmp_path / "session3").rename(tmp_path / "session5")
    write(tmp_path / "Evalution.txt", block(NAME, "H"))
    listing = msp_improv.read(tmp_path)
    assert not listing.utterances
    path = tmp_path / path.relative_to(tmp_path).as_posix().replace("session3", "session5")
    assert listing.problems == (f"{path}: its name says session 03, its folder session5",)
    assert listing.missing == (TURN,)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("S21A-F03-S-MF02", "sentence 21 is not among 01 to 20"),
        ("S08A-F07-S-MF02", "session 07 is not among 01 to 06"),
        ("S08A-F03-Q-MF02", "is not built like"),
        ("S08B-F03-S-MF02", "is not built like"),
    ],
)
def test_a_code_that_does_not_exist_is_named(tmp_path, name, fault):
    write(tmp_path / f"MSP-IMPROV-{name}.wav", name)
    write(tmp_path / "Evalution.txt", block(name, "H"))
    listing = msp_improv.read(tmp_path)
    assert not listing.utterances
    label, recording = listing.problems
    assert label.startswith(f"{tmp_path}/Evalution.txt: ")
    assert recording.startswith(f"{tmp_path}/MSP-IMPROV-{name}.wav: ")
    assert fault in label
    assert fault in recording


def test_a_label_that_does_not_exist_is_named(tmp_path):
    audio(tmp_path, NAME)
    write(tmp_path / "Evalution.txt", block(NAME, "H").replace("avi; H", "avi; Z"))
    listing = msp_improv.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (
        f"{tmp_path}/Evalution.txt: {TURN} has the label Z, which is not among A, H, S, N, O, X",
    )


def test_recordings_without_label_and_of_other_names_are_told(tmp_path):
    audio(tmp_path, NAME)
    path = audio(tmp_path, "S08A-F03-S-MF03")
    write(tmp_path / "beep.wav", "beep")
    write(tmp_path / "Evalution.txt", block(NAME, "H"))
    listing = msp_improv.read(tmp_path)
    assert [u.id for u in listing.utterances] == [TURN]
    assert listing.problems == (f"{path}: the evaluation file lacks its turn",)
    assert listing.notes == ("1 file with a name of another kind left out",)


def test_transcripts_by_people_go_before_recognised_ones_and_those_that_differ_give_no_text(tmp_path):
    audio(tmp_path, NAME)
    write(tmp_path / "Evalution.txt", block(NAME, "H"))
    write(tmp_path / f"ASR/{TURN}.txt", "wreck a nice beach")
    write(tmp_path / f"Human_transcriptions/{TURN}.txt", "Recognise speech.")
    write(tmp_path / f"Human_transcriptions/ForcedAlignment/{TURN}.txt", "0.1 0.5 recognise")
    (turn,) = msp_improv.read(tmp_path).utterances
    assert turn.text == "Recognise speech."
    write(tmp_path / f"human/{TURN}.txt", "Recognise a peach.")
    listing = msp_improv.read(tmp_path)
    assert listing.utterances[0].text == ""
    assert listing.notes == ("1 clip with transcripts that differ kept without text",)
