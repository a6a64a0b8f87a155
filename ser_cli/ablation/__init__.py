"""Grids of recipes, their cells and what they come to: `ser ablate`; the grids themselves are in `grids/`."""
