"""Utterances, their waveforms, their folds, their mixtures and their batches."""
