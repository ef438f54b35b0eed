"""Figures of the reports, as SVG text within a page. Depends on matplotlib."""

import io

from matplotlib import rc_context
from matplotlib.figure import Figure


COLOURS = ("#3b6ea5", "#e08b3c", "#5a9e6f", "#b5523b", "#8a6fb0", "#8c8c8c")


def stacked_bars(names: list[str], series: dict[str, list[float]], label: str) -> Figure:
    """Return a chart of horizontal bars, one per name from top to bottom, each composed of the series.

    Parameters
    ----------
    names
        Labels of the bars.
    series
        Title of each series and its values, one per name.
    label
        Label of the horizontal axis.
    """
    figure = Figure(figsize=(9, 0.9 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(names)
    for colour, (title, values) in zip(COLOURS * (1 + len(series) // len(COLOURS)), series.items()):
        axes.barh([plain(name) for name in names], values, left=left, label=title, color=colour, height=0.7)
        left = [before + value for before, value in zip(left, values)]
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plain(text: str) -> str:
    r"""Return a text in which matplotlib reads no formula.

    Examples
    --------
    >>> plain("a$b$")
    'a\\$b\\$'
    """
    return text.replace("$", r"\$")


def svg(figure: Figure, *, tight: bool = False) -> str:
    """Return a figure as SVG text. Equal figures give equal texts.

    Parameters
    ----------
    figure
        The figure.
    tight
        Fit the page to everything that is drawn. By default, the page is the figure.
    """
    content, box = io.StringIO(), "tight" if tight else None
    with rc_context({"svg.hashsalt": "cell2text", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=box)
    text = content.getvalue()
    return text[text.index("<svg") :]
