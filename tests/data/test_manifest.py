import pytest

from ser_cli.data.manifest import Utterance, hash_manifest, read_prepared_manifest, require_texts, write_manifest
from ser_cli.errors import CorpusError


def test_a_written_manifest_reads_back_as_it_was(tmp_path):
    rows = (
        Utterance("a", "/x/a.wav", "sad", "p1", "s1", "male", 'he said "no", twice', 1.5, (("style", "acted"),)),
        Utterance("b", "/x/b.wav", "happy", "p2", duration_s=0.25),
    )
    write_manifest(tmp_path / "m.csv", rows)
    assert read_prepared_manifest(tmp_path / "m.csv") == rows


def test_the_hash_follows_labels_and_audio_but_not_where_files_lie():
    rows = [Utterance("a", "/x/a.wav", "sad", "p1")]
    moved = [Utterance("a", "/y/a.wav", "sad", "p1")]
    other = [Utterance("a", "/x/a.wav", "happy", "p1")]
    assert hash_manifest(rows, ["1"]) == hash_manifest(moved, ["1"])
    assert hash_manifest(rows, ["1"]) != hash_manifest(other, ["1"])
    assert hash_manifest(rows, ["1"]) != hash_manifest(rows, ["2"])
    assert hash_manifest(rows, ["1"]) != hash_manifest([Utterance("a", "", "sad", "p1", gender="male")], ["1"])


def test_the_hash_follows_votes_dialogues_and_partitions_and_no_other_column():
    def hashed(**extra: str) -> str:
        return hash_manifest([Utterance("a", "", "sad", "p1", extra=tuple(extra.items()))], ["1"])

    assert hashed() == hashed(intensity="strong")
    assert len({hashed(), hashed(votes="sad:1"), hashed(dialog="sad:1"), hashed(partition="Train")}) == 4


def test_a_transcript_of_a_mixture_is_not_what_is_heard():
    clip = Utterance("a", "", "sad", "p1", text="dogs")
    mixture = Utterance("mix-1", "", "sad", "p1", text="dogs", extra=(("source_a", "a"), ("source_b", "b")))
    require_texts("mixed", [clip])
    with pytest.raises(CorpusError) as refused:
        require_texts("mixed", [clip, mixture])
    assert "mixed: 1 of 2 clips are mixtures, such as mix-1, in which two voices say two things" in str(refused.value)
    assert "leave them out: --where 'source_b='" in str(refused.value)
