"""Pictures as functions of data: each returns a figure of matplotlib and draws nothing on a screen.

from ser_cli.figures.matrices import draw_confusion
from ser_cli.figures.style import as_svg

svg = as_svg(draw_confusion([[8, 2], [1, 9]], ["happy", "sad"], normalized=True))
"""
