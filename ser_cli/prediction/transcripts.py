"""What recordings say, from a table that the user gives: for models that read it."""

from pathlib import Path

from ser_cli.prediction.recording_tables import RecordingTable, read_recording_table

Transcripts = RecordingTable
"""Texts of recordings by their paths."""


def read_transcripts(path: Path) -> Transcripts:
    """Read a CSV file with the columns `path` and `text`; see `read_recording_table`."""
    return read_recording_table(path, "--texts", "text")
