"""A cross-validation and the folds in it, and what lets them go on where they stopped: `ser train`."""
