"""Speech emotion recognition from the command line: prepare, train, evaluate."""

__version__ = "0.1.0"
__released__ = "2026-11-21"
