"""Warnings about cells with few genes, and about files with few of the model's genes."""

from collections.abc import Sequence


# Share of the model's genes in a file. benchmarks/results/thin_cells.json measures fewer correct types on cells cut to
# 0.19 of the genes and less; between that and whole transcriptomes (0.53 and more) nothing was measured.
LOW_COVERAGE = 0.2
GUIDE = "See the guide 'Thin cells and gene panels'."


def thin_cells_warning(
    n_cells: int, n_too_few: int, n_lowered: int, *, min_genes: int, reliability: Sequence[Sequence[float]] | None
) -> str | None:
    """Return a warning about the thin cells of an experiment, None if there are none.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_too_few
        Number of cells with fewer genes than `min_genes`.
    n_lowered
        Number of the other cells whose type probability is lowered.
    min_genes
        Minimum number of expressed genes for a description.
    reliability
        The model's `type_reliability`.

    Examples
    --------
    >>> thin_cells_warning(100, 7, 0, min_genes=10, reliability=None)
    "7 of 100 cells express fewer than 10 genes of the model and have no description. See the guide 'Thin cells and \
gene panels'."
    """
    parts = []
    if n_too_few:
        parts.append(f"{n_too_few:,} of {n_cells:,} cells express fewer than {max(1, min_genes):,} genes of the model")
        parts[0] += " and have no description"
    if n_lowered and reliability:
        parts.append(
            f"{n_lowered:,} of {n_cells:,} cells express fewer than {reliability[-1][0]:,} genes of the model, so the "
            "stated probability of their types is lowered"
        )
    return f"{'; '.join(parts)}. {GUIDE}" if parts else None


def thin_thresholds(model, processor) -> dict:
    """Return the number of genes that a cell needs for a text, and the curve that lowers type probabilities."""
    return {"min_genes": processor.min_genes, "reliability": model.config.type_reliability}


def thin_warnings(summary: dict, *, min_genes: int, reliability: Sequence[Sequence[float]] | None) -> list[str]:
    """Return the warnings about an experiment.

    Parameters
    ----------
    summary
        What the model saw, as :func:`cell2text.describe.summary.summarise` returns it.
    min_genes, reliability
        See :func:`thin_cells_warning`.
    """
    names = ("cells", "cells_with_too_few_genes", "cells_with_lowered_probability")
    thin = thin_cells_warning(*(summary[name] for name in names), min_genes=min_genes, reliability=reliability)
    return [text for text in (thin, coverage_warning(summary["coverage"], summary["median_genes"])) if text]


def coverage_warning(coverage: float | None, n_genes: float) -> str | None:
    """Return a warning about a file with few of the model's genes, None if it has enough.

    Parameters
    ----------
    coverage
        Share of the model's genes that the file has; None for gene lists, which do not show it.
    n_genes
        Median number of expressed genes of the model per cell.

    Examples
    --------
    >>> coverage_warning(0.6, 900) is None
    True
    >>> coverage_warning(0.012, 15)[:81]
    "The file has 1.2 % of the model's genes, and its cells express 15 of them (median"
    """
    if coverage is None or coverage >= LOW_COVERAGE:
        return None
    return (
        f"The file has {100 * coverage:.1f} % of the model's genes, and its cells express {n_genes:,.0f} of them "
        f"(median). Under {100 * LOW_COVERAGE:.0f} %, fewer cell types are correct than with all genes. {GUIDE}"
    )
