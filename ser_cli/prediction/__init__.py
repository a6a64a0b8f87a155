"""Trained models on recordings as they come, and elsewhere: `ser predict`."""
