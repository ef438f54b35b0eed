"""Render HTML and Markdown pages from Jinja templates: one environment for all reports.

Depends on Jinja. Templates lie in the folder `templates` of the subpackage that uses them.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape


def render_page(package: str, template: str, **context: Any) -> str:
    """Render a template of a subpackage.

    HTML templates escape what they insert; Markdown templates do not. Filters: `percent` (0.123 as "12.3 %"),
    `thousands` (1234 as "1,234") and `markdown_cell` (a text within one cell of a Markdown table).

    Parameters
    ----------
    package
        Subpackage whose folder `templates` holds the template, such as `"cell2text.evaluation"`.
    template
        File name, which ends in `.html` or `.md`.
    **context
        Values that the template uses.
    """
    return _environment(package).get_template(template).render(**context)


@cache
def _environment(package: str) -> Environment:
    """Return the environment of a subpackage, which compiles each template once."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "thousands": _thousands, "markdown_cell": markdown_cell}
    return environment


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _thousands(number: int) -> str:
    return f"{number:,}"


def markdown_cell(text: str) -> str:
    """Return a text that stays within one cell of a Markdown table.

    Examples
    --------
    >>> markdown_cell("two\\nlines | bar")
    'two lines \\\\| bar'
    """
    return " ".join(text.split()).replace("|", "\\|")
