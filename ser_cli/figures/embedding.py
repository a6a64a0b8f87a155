"""Embeddings of training and test in two dimensions, as in Figure 2 of the multi-loss paper."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ser_cli.figures.style import colors_for, markers_for, new_figure, plain, styled

MOST_POINTS = 3000
"""Clips of one map; of a larger fold, so many are drawn at random."""


def embed_in_two_dimensions(embeddings: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """(clips, 2) by t-SNE (van der Maaten and Hinton 2008), perplexity 30 or a third of the clips, started from PCA.

    Args:
        embeddings: (clips, dim); each dimension is standardised first.
        seed: of what is random in it.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    spread = embeddings.std(axis=0)
    points = (embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1)
    if min(points.shape) > 50:
        points = PCA(50, random_state=seed).fit_transform(points)
    tsne = TSNE(perplexity=min(30, max(2, (len(points) - 1) / 3)), init="pca", random_state=seed)
    mapped: NDArray[np.float32] = tsne.fit_transform(points)
    return mapped


def draw_embeddings(
    points: NDArray[np.float32], sides: Sequence[str], emotions: Sequence[str], labels: Sequence[str]
) -> Figure:
    """Two panels of one map: training clips and tested clips, each coloured by its emotion.

    Args:
        points: (clips, 2).
        sides: of each clip, `train` or `test`.
        emotions: of each clip.
        labels: in the order of the legend.
    """
    colors, markers = colors_for(labels), markers_for(labels)
    side, emotion = np.asarray(sides), np.asarray(emotions)
    with styled():
        figure = new_figure(8.8, 4.7)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, which, title in zip(panels, ("train", "test"), ("training", "test, unheard speakers"), strict=True):
            here = side == which
            size = float(np.clip(6000 / max(here.sum(), 1), 8, 30))
            for label in labels:
                chosen = points[here & (emotion == label)]
                axes.scatter(
                    chosen[:, 0], chosen[:, 1], s=size, c=colors[label], marker=markers[label], alpha=0.8, linewidths=0
                )
            axes.set_title(f"{title}, {here.sum():,} clips")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        handles = [
            Line2D([], [], color=colors[label], marker=markers[label], linestyle="", label=plain(label))
            for label in labels
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(labels), 8), handletextpad=0.1)
    return figure
