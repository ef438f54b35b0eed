"""Pictures of the reports, as SVG text that stands in a page."""

import io

from matplotlib import rc_context
from matplotlib.figure import Figure


COLOURS = ("#3b6ea5", "#e08b3c", "#5a9e6f", "#b5523b", "#8a6fb0", "#8c8c8c")


def stacked_bars(names: list[str], series: dict[str, list[float]], label: str) -> Figure:
    """Horizontal bars, one a name from top to bottom, its series end to end."""
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
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """A figure as SVG text, the same bytes each time."""
    content = io.StringIO()
    with rc_context({"svg.hashsalt": "cell2text", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
