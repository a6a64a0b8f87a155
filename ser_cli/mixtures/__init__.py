"""Mixtures of clips to listen to and to train on: `ser mix`; how two clips are mixed is in `data/mixup.py`."""
