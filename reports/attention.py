"""Pictures of attention and of patch tokens: arrays in, figures out."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

WIDTH = 2.4  # inches of one picture
TITLE = 32  # characters that fit above it
QUERY = "#ff2d2d"


def attention_figure(
    title: str, image: np.ndarray, queries: Sequence[tuple[float, float]], maps: Mapping[str, np.ndarray]
) -> Figure:
    """A row for each query patch: the image with the patch marked, then its maps over the image.

    Args:
        title: stands above.
        image: (H, W, 3), uint8.
        queries: (x, y) of each query patch, in pixels of ``image``.
        maps: name of a column -> (Q, h, w), each map from 0; the largest value of a map is drawn brightest.
    """
    figure, axes = _grid(title, image.shape, len(queries), ["query", *maps])
    for row, (x, y) in enumerate(queries):
        _show(axes[row, 0], image)
        axes[row, 0].plot(x, y, "o", markersize=9, markerfacecolor=QUERY, markeredgecolor="white", markeredgewidth=1.5)
        for axis, values in zip(axes[row, 1:], maps.values(), strict=True):
            _show(axis, heat(image, values[row]))
            axis.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor=QUERY, markeredgewidth=1.5)
    return figure


def rows_figure(title: str, rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str]) -> Figure:
    """Pictures (H, W, 3) in rows, each with its name at the left, under the names of the columns."""
    figure, axes = _grid(title, rows[0][1][0].shape, len(rows), columns)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            _show(axis, picture)
        line[0].set_ylabel(textwrap.fill(name, TITLE // 2), fontsize=8, parse_math=False)
    return figure


def heat(image: np.ndarray, values: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """A map (h, w) in colours over a greyed image (H, W, 3): uint8.

    Values are scaled from 0 to the largest of the map; a square root lifts what is faint, so that nothing is cut off.
    """
    scaled = np.sqrt(values / max(float(values.max()), 1e-12))
    colours = enlarged((255 * colormaps["inferno"](scaled)[..., :3]).astype(np.uint8), image.shape[:2])
    grey = image.mean(axis=2, keepdims=True)
    return ((1 - opacity) * grey + opacity * colours).round().clip(0, 255).astype(np.uint8)


def principal_colours(tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first three principal components of patch tokens as RGB, with one basis for all images.

    Args:
        tokens: of each image (h, w, C).

    Returns:
        for each image (h, w, 3), uint8; each component from its 1st to its 99th percentile over all images.
    """
    flat = np.concatenate([one.reshape(-1, one.shape[-1]) for one in tokens]).astype(np.float64)
    flat -= flat.mean(axis=0)
    basis = np.linalg.eigh(flat.T @ flat)[1][:, :-4:-1]  # (C, 3), the largest first
    basis *= np.sign(
        basis[np.abs(basis).argmax(axis=0), range(basis.shape[1])]
    )  # an eigenvector has no sign of its own
    parts = flat @ basis
    low, high = np.percentile(parts, [1, 99], axis=0)
    colours = (255 * ((parts - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).round().astype(np.uint8)
    ends = np.cumsum([one.shape[0] * one.shape[1] for one in tokens])[:-1]
    return [part.reshape(*one.shape[:2], 3) for one, part in zip(tokens, np.split(colours, ends), strict=True)]


def enlarged(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3), uint8, of another (height, width), its pixels as squares."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))


def _grid(title: str, shape: Sequence[int], rows: int, columns: Sequence[str]) -> tuple[Figure, np.ndarray]:
    lines = max(len(textwrap.wrap(column, TITLE)) for column in columns)
    height = WIDTH * shape[0] / shape[1]
    size = (WIDTH * len(columns), (height + 0.05) * rows + 0.4 + 0.15 * lines)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(textwrap.fill(column, TITLE), fontsize=9, parse_math=False)
    figure.suptitle(textwrap.fill(title, int(20 * len(columns))), fontsize=10, parse_math=False)
    return figure, axes


def _show(axis: Axes, picture: np.ndarray) -> None:
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
