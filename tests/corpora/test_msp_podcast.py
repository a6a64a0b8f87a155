import json
from collections import Counter

import pytest

from ser_cli.corpora import msp_podcast
from ser_cli.corpora.corpus import expected_counts
from ser_cli.data.votes import parse_votes

# Published: the partitions of release 1.8 in the EmoBox metadata.
VALIDATION = {"N": 2529, "X": 1454, "H": 1320, "A": 621, "C": 547} | {"D": 441, "U": 382, "S": 302, "F": 130, "O": 74}
TEST1 = {"N": 4702, "H": 3475, "X": 2955, "U": 1029, "C": 736} | {"D": 709, "A": 622, "S": 505, "F": 367, "O": 226}
COMMON = {
    **{"A": "angry", "S": "sad", "H": "happy", "U": "surprised", "F": "fearful"},
    **{"D": "disgust", "C": "contempt", "N": "neutral", "O": "other", "X": "no-agreement"},
}
HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
CLIP = "MSP-PODCAST_0001_0008"
ROW = f"{CLIP}.wav,N,2.2,4.0,2.6,30,Male,Test1\n"
OTHER = "MSP-PODCAST_0001_0009"
OTHER_ROW = f"{OTHER}.wav,H,3.777778,3.555556,NaN,Unknown,Female,Validation\n"


def write(path, data):
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def audio(root, *clips, suffix=".wav"):
    for clip in clips:
        write(root / f"Audios/{clip}{suffix}", clip)


def block(clip, code="N", raters=("Neutral", "Neutral", "Happy", "Other-bored", "Neutral")):
    lines = [f"{clip}.wav; {code}; A:2.200000; V:4.000000; D:2.600000;"]
    for number, primary in enumerate(raters):
        lines.append(f"WORKER{number:08d}; {primary}; {primary},Confused; A:1.000000; V:4.000000; D:1.000000; ")
    return "\n".join(lines) + "\n\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two partitions of release 1.8. Filler: numbers of podcasts and clips, speakers, scores and votes."""
    root = tmp_path_factory.mktemp("podcast") / "MSP-PODCAST-Publish-1.8"
    rows, votes, number = [], [], 0
    for partition, codes in (("Validation", VALIDATION), ("Test1", TEST1)):
        for code, count in codes.items():
            for _ in range(count):
                clip = f"MSP-PODCAST_{number // 100 + 1:04d}_{number % 100:04d}"
                gender = ("Male", "Female")[number % 2]
                rows.append(f"{clip}.wav,{code},2.2,4.0,2.6,{number % 50},{gender},{partition}\n")
                votes.append(block(clip, code, ("Neutral",)))
                audio(root, clip)
                number += 1
    write(root / "Labels/labels_concensus.csv", HEADER + "".join(rows))
    write(root / "Labels/labels.txt", "".join(votes))
    write(root / "Audios/._MSP-PODCAST_0001_0000.wav", b"\0\5\x16\7")
    write(root / "Audios/.DS_Store", b"\0")
    return root


@pytest.fixture(scope="module")
def listing(corpus):
    return msp_podcast.read(corpus)


def test_two_published_partitions_come_out_in_the_published_numbers(listing):
    assert listing.problems == ()
    assert listing.missing == ()
    for partition, codes, clips in (("Development", VALIDATION, 7800), ("Test1", TEST1, 15326)):
        found = [u for u in listing.utterances if dict(u.extra)["partition"] == partition]
        assert len(found) == clips
        assert Counter(u.emotion for u in found) == {COMMON[code]: number for code, number in codes.items()}
        assert Counter(dict(u.extra)["code"] for u in found) == codes
    assert len(listing.utterances) == 7800 + 15326
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)
    assert Counter(u.gender for u in listing.utterances) == {"male": 11563, "female": 11563}
    assert {u.session for u in listing.utterances} == {""}
    assert len({u.speaker for u in listing.utterances}) == 50


def test_the_four_class_set_has_the_published_numbers(listing):
    eight, four = msp_podcast.CORPUS.label_sets
    assert (four.name, four.labels) == ("4", ("angry", "happy", "sad", "neutral"))
    kept = Counter(dict(u.extra)["partition"] for u in listing.utterances if u.emotion in four.label_of)
    assert kept == {"Development": 4772, "Test1": 9304}
    assert eight.name == "8"
    assert eight.labels == (*("angry", "sad", "happy", "surprised", "fearful", "disgust", "contempt", "neutral"),)
    assert sum(u.emotion in eight.label_of for u in listing.utterances) == 7800 - 1454 - 74 + 15326 - 2955 - 226


def test_partitions_of_release_1_8_are_compared_with_the_published_numbers(listing):
    assert listing.notes == (
        "release 1.8: Train is not there",
        "release 1.8: Development has the published number of clips of each emotion",
        "release 1.8: Test1 has the published number of clips of each emotion",
        "release 1.8: Test2 is not there",
    )
    assert {dict(u.extra)["release"] for u in listing.utterances} == {"1.8"}


@pytest.mark.parametrize(
    ("partition", "verdict"),
    [
        ("Test2", "Test2 has 1 neutral of 2,260, 0 happy of 926, 0 sad of 161, 0 angry of 136"),
        ("Train", "Train has 1 neutral of 16,518, 0 happy of 8,564, 0 angry of 1,839, 0 sad of 1,680"),
    ],
)
def test_a_partition_of_release_1_8_with_other_numbers_is_told(tmp_path, partition, verdict):
    root = tmp_path / "MSP-PODCAST-Publish-1.8"
    audio(root, CLIP)
    write(root / "Labels/labels_concensus.csv", HEADER + ROW.replace("Test1", partition))
    assert f"release 1.8: {verdict}" in msp_podcast.read(root).notes


def test_there_is_no_one_number_of_clips_for_all_releases():
    assert expected_counts("msp-podcast") is None


def test_the_parent_folder_and_the_folder_of_labels_are_read_too_and_recordings_alone_are_one_problem(tmp_path):
    audio(tmp_path / "corpus", CLIP, OTHER)
    write(tmp_path / "corpus/Labels/labels_consensus.csv", HEADER + ROW + OTHER_ROW)
    assert [u.id for u in msp_podcast.read(tmp_path).utterances] == [CLIP, OTHER]
    labels_alone = msp_podcast.read(tmp_path / "corpus/Labels")
    assert (labels_alone.utterances, labels_alone.missing) == ((), (CLIP, OTHER))
    folder = tmp_path / "corpus/Audios"
    alone = msp_podcast.read(folder)
    assert not alone.utterances
    assert alone.problems == (
        f"{folder}: 2 recordings and no label; give the folder that holds Labels/labels_consensus.csv as well",
    )


@pytest.mark.parametrize("table", ["Labels/labels_concensus.csv", "label/labels_consensus.csv", "Labels_Consensus.CSV"])
def test_a_clip_is_read_from_the_table_wherever_it_lies(tmp_path, table):
    audio(tmp_path, CLIP, suffix=".WAV")
    audio(tmp_path, OTHER)
    write(tmp_path / table, HEADER + ROW + OTHER_ROW)
    write(tmp_path / "Labels/labels.txt", block(CLIP) + block(OTHER, "H", ()))
    write(tmp_path / f"Transcripts/{CLIP}.txt", "so  that\nwas it\n")
    write(tmp_path / f"ForceAligned/{CLIP}.txt", "0.0 0.2 so")
    listing = msp_podcast.read(tmp_path)
    first, second = listing.utterances
    assert (first.id, first.path, first.emotion, first.speaker, first.session, first.gender, first.text) == (
        *(CLIP, str((tmp_path / f"Audios/{CLIP}.WAV").resolve()), "neutral", "30", "", "male", "so that was it"),
    )
    assert dict(first.extra) == {
        "partition": "Test1",
        "release": "unknown",
        "code": "N",
        "activation": "2.2",
        "valence": "4.0",
        "dominance": "2.6",
        "votes": "neutral:3 happy:1 other:1",
    }
    assert (second.emotion, second.speaker, second.gender, second.text) == ("happy", "unknown", "female", "")
    assert dict(second.extra) == {
        **{"partition": "Development", "release": "unknown", "code": "H"},
        **{"activation": "3.777778", "valence": "3.555556"},
    }
    assert listing.problems == ()
    assert listing.notes == ("1 clip without rater lines kept without votes",)


@pytest.mark.parametrize("speaker", ["Unknown", "unknown", "UNKNOWN", ""])
def test_speakers_that_nobody_knows_share_one_name(tmp_path, speaker):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW.replace(",30,Male,", f",{speaker},Unknown,"))
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert (clip.speaker, clip.gender) == ("unknown", "")


@pytest.mark.parametrize(
    ("given", "partition"),
    [
        *(("Train", "Train"), ("Validation", "Development"), ("Development", "Development")),
        *(("Test1", "Test1"), ("test 2", "Test2"), ("Test3", "Test3")),
    ],
)
def test_partitions_have_one_name_in_all_releases(tmp_path, given, partition):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW.replace("Test1", given))
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert dict(clip.extra)["partition"] == partition


def test_partitions_come_from_their_list_where_the_table_has_none(tmp_path):
    audio(tmp_path, CLIP, OTHER)
    write(tmp_path / "labels_consensus.csv", f"FileName,EmoClass,SpkrID\n{CLIP}.wav,N,30\n{OTHER}.wav,H,31\n")
    write(tmp_path / "Partitions.txt", f"Test1; {CLIP}.wav\r\nDevelopment; {OTHER}.wav\r\n")
    listing = msp_podcast.read(tmp_path)
    assert [dict(u.extra)["partition"] for u in listing.utterances] == ["Test1", "Development"]
    assert listing.problems == ()


@pytest.mark.parametrize(
    ("name", "lines", "fault"),
    [
        ("Test1", "Train; {0}.wav\n", "puts {0} into Test1, but the list of partitions into Train"),
        ("", "Train; {0}.wav\nTest2; {0}.wav\n", "{0} is in 'Train and Test2', which is not a partition"),
        ("Final", "", "{0} is in 'Final', which is not a partition"),
    ],
)
def test_partitions_in_doubt_are_named(tmp_path, name, lines, fault):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW.replace("Test1", name))
    write(tmp_path / "Partitions.txt", lines.format(CLIP))
    listing = msp_podcast.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (f"{tmp_path}/labels_consensus.csv: {fault.format(CLIP)}",)


def test_clips_whose_labels_are_withheld_are_left_out_with_a_word(tmp_path):
    audio(tmp_path, CLIP, OTHER, "MSP-PODCAST_0001_0010")
    write(tmp_path / "labels_consensus.csv", HEADER + ROW + f"{OTHER}.wav,,,,,Unknown,,Test3\n")
    write(tmp_path / "Partitions.txt", f"Test1; {CLIP}.wav\nTest3; MSP-PODCAST_0001_0010.wav\n")
    listing = msp_podcast.read(tmp_path)
    assert [u.id for u in listing.utterances] == [CLIP]
    assert listing.problems == ()
    assert listing.notes[0] == "2 files of Test3, whose labels are not published, left out"


def test_the_table_is_read_as_json_where_there_is_no_other(tmp_path):
    audio(tmp_path, CLIP)
    values = {"EmoClass": "C", "EmoAct": "2.5", "EmoVal": 4, "EmoDom": "NaN", "SpkrID": 7, "Gender": "Female"}
    write(tmp_path / "label/labels_consensus.json", json.dumps({f"{CLIP}.wav": {**values, "Split_Set": "Train"}}))
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert (clip.emotion, clip.speaker, clip.gender) == ("contempt", "7", "female")
    assert dict(clip.extra) == {
        **{"partition": "Train", "release": "unknown", "code": "C", "activation": "2.5", "valence": "4.0"},
    }
    write(tmp_path / "label/labels_consensus.csv", HEADER + ROW)
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert clip.emotion == "neutral"


@pytest.mark.parametrize("form", ["named", "list"])
def test_votes_come_from_the_detailed_table_where_there_is_no_labels_txt(tmp_path, form):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW)
    majors = ("Neutral", "Happy", "Other-Sarcastic", "Neutral", "Surprise", "Bewildered")
    workers = {f"WORKER{n}": {"EmoClass_Major": major, "EmoAct": "3.0"} for n, major in enumerate(majors)}
    entry = workers if form == "named" else {"Workers": list(workers.values())}
    write(tmp_path / "labels_detailed.json", json.dumps({f"{CLIP}.wav": entry}))
    listing = msp_podcast.read(tmp_path)
    (clip,) = listing.utterances
    assert parse_votes(dict(clip.extra)["votes"]) == {"neutral": 2, "happy": 1, "other": 1, "surprised": 1}
    assert listing.notes == ("1 choice of raters left out, in unknown words",)
    write(tmp_path / "labels.txt", block(CLIP, raters=("Angry", "Sad", "Fear", "Disgust", "Contempt")))
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert parse_votes(dict(clip.extra)["votes"]) == dict.fromkeys(
        ("angry", "sad", "fearful", "disgust", "contempt"), 1
    )


@pytest.mark.parametrize("text", ["{", "[1]", '{"MSP-PODCAST_0001_0008.wav": {"W1": {}}}', '{"x.wav": 3}'])
def test_a_detailed_table_of_another_form_is_named(tmp_path, text):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW)
    write(tmp_path / "labels_detailed.json", text)
    listing = msp_podcast.read(tmp_path)
    assert [u.id for u in listing.utterances] == [CLIP]
    assert listing.problems[0].startswith(f"{tmp_path}/labels_detailed.json: not a table of raters (")


@pytest.mark.parametrize(
    ("folder", "release"),
    [
        ("MSP-PODCAST-Publish-1.8", "1.8"),
        ("msp_podcast_corpus_v1.11", "1.11"),
        ("MSP-Podcast/v1.10", "1.10"),
        ("MSP-Podcast 2.0", "2.0"),
        ("podcast_1.8.3", "unknown"),
        ("MSP-Podcast", "unknown"),
    ],
)
def test_the_release_is_read_from_the_path(tmp_path, folder, release):
    root = tmp_path / folder
    audio(root, CLIP)
    write(root / "Labels/labels_consensus.csv", HEADER + ROW)
    for source in (root, tmp_path):
        (clip,) = msp_podcast.read(source).utterances
        assert dict(clip.extra)["release"] == release


def test_the_release_is_read_from_the_names_of_files_where_the_path_tells_none(tmp_path):
    write(tmp_path / f"{CLIP}.flac", "a flat copy")
    write(tmp_path / "labels_consensus.csv", HEADER + ROW)
    write(tmp_path / "MSP-PODCAST-Publish-1.11.tar.gz", b"\x1f\x8b")
    (clip,) = msp_podcast.read(tmp_path).utterances
    assert dict(clip.extra)["release"] == "1.11"


def test_two_releases_under_one_folder_are_a_problem(tmp_path):
    for release in ("1.8", "1.11"):
        audio(tmp_path / f"MSP-PODCAST-Publish-{release}", CLIP)
        write(tmp_path / f"MSP-PODCAST-Publish-{release}/Labels/labels_consensus.csv", HEADER + ROW)
    listing = msp_podcast.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (
        f"{tmp_path}: holds labels of the releases 1.11 and 1.8; give the folder of one of them",
    )


def test_what_a_release_brings_along_of_earlier_ones_is_left_out(tmp_path):
    root = tmp_path / "MSP-PODCAST-Publish-1.11"
    audio(root, CLIP)
    write(root / "Labels/labels_consensus.csv", HEADER + ROW)
    previous = root / "Previous_releases_information"
    write(previous / "previous_releases_info/v1.8/Labels/labels_concensus.csv", HEADER + ROW.replace(",N,", ",H,"))
    write(previous / f"files_removed_from_prev_versions/v1.8_removed_files/{OTHER}.wav", "removed")
    listing = msp_podcast.read(root)
    assert [(u.id, u.emotion) for u in listing.utterances] == [(CLIP, "neutral")]
    assert listing.problems == ()
    assert listing.notes[0] == "1 file of previous releases left out"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_label_files_are_read_in_any_encoding_and_with_any_line_ends(tmp_path, encoding):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", (HEADER + ROW).replace("\n", "\r\n").encode(encoding))
    write(tmp_path / "labels.txt", block(CLIP, raters=("Other-blasé",)).replace("\n", "\r\n").encode(encoding))
    write(tmp_path / f"Transcripts/{CLIP}.txt", "Café?\r\n".encode(encoding))
    listing = msp_podcast.read(tmp_path)
    (clip,) = listing.utterances
    assert (clip.emotion, clip.text, dict(clip.extra)["votes"]) == ("neutral", "Café?", "other:1")
    assert listing.problems == listing.notes == ()


def test_a_doubled_tree_and_a_loop_of_links_are_counted_once(tmp_path):
    for copy in ("one", "two"):
        audio(tmp_path / copy, CLIP)
        write(tmp_path / copy / "labels_consensus.csv", HEADER + ROW)
        write(tmp_path / copy / "labels.txt", block(CLIP))
    (tmp_path / "two/again").symlink_to(tmp_path, target_is_directory=True)
    listing = msp_podcast.read(tmp_path)
    assert [u.id for u in listing.utterances] == [CLIP]
    assert listing.problems == ()
    assert listing.notes == ("1 file left out, byte for byte the clip of the same name",)


def test_tables_that_disagree_are_named(tmp_path):
    audio(tmp_path, CLIP, OTHER)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW + OTHER_ROW)
    write(tmp_path / "old/labels_concensus.csv", HEADER + ROW.replace(",30,", ",31,"))
    listing = msp_podcast.read(tmp_path)
    assert [u.id for u in listing.utterances] == [OTHER]
    table = f"{tmp_path}/labels_consensus.csv"
    assert listing.problems == (
        f"{tmp_path}/old/labels_concensus.csv: labels {CLIP} otherwise than {table} or a line before",
    )


def test_raters_files_that_disagree_with_the_table_or_themselves_are_named(tmp_path):
    audio(tmp_path, CLIP, OTHER)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW + OTHER_ROW)
    write(tmp_path / "labels.txt", block(CLIP, "A") + block(OTHER, "H") + block(OTHER, "H", ("Sad",)))
    listing = msp_podcast.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (
        f"{tmp_path}/labels.txt: labels {OTHER} otherwise than another line of it",
        f"{tmp_path}/labels_consensus.csv: labels {CLIP} N, but {tmp_path}/labels.txt A",
    )


def test_a_label_that_does_not_exist_is_named(tmp_path):
    audio(tmp_path, CLIP)
    write(tmp_path / "labels_consensus.csv", HEADER + ROW.replace(",N,", ",Z,"))
    listing = msp_podcast.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (
        f"{tmp_path}/labels_consensus.csv: {CLIP} has the label 'Z', which is not among A, S, H, U, F, D, C, N, O, X",
    )


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("labels_consensus.csv", "File,Emotion\na.wav,N\n", "no column FileName, EmoClass, SpkrID"),
        ("labels_consensus.csv", "", "no column FileName, EmoClass, SpkrID"),
        ("labels_consensus.json", "[]", "no object with a clip for each key"),
        ("labels_consensus.json", '{"a.wav": {"Emo": "N"}}', "a.wav has no EmoClass"),
    ],
)
def test_a_table_of_another_form_is_named(tmp_path, name, text, fault):
    write(tmp_path / name, text)
    assert msp_podcast.read(tmp_path).problems == (f"{tmp_path}/{name}: not a table of labels ({fault})",)


def test_recordings_without_row_rows_without_recording_and_other_names_are_told(tmp_path):
    audio(tmp_path, CLIP, "MSP-PODCAST_0001_0010", "jingle")
    write(tmp_path / "labels_consensus.csv", HEADER + ROW + OTHER_ROW)
    listing = msp_podcast.read(tmp_path)
    assert [u.id for u in listing.utterances] == [CLIP]
    assert listing.missing == (OTHER,)
    assert listing.problems == (f"{tmp_path}/Audios/MSP-PODCAST_0001_0010.wav: the table of labels lacks its clip",)
    assert listing.notes[0] == "1 file with a name of another kind left out"
