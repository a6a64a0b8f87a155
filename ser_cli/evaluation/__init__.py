"""From predictions on disk to scores, intervals, comparisons and reports: `ser evaluate`."""
