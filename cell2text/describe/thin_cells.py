"""Warnings about cells with few genes, and about files with few of the model's genes."""

# Share of the model's genes in a file. benchmarks/results/thin_cells.json measures fewer correct types on cells cut to
# 0.19 of the genes and less; between that and whole transcriptomes (0.53 and more) nothing was measured.
LOW_COVERAGE = 0.2
GUIDE = "See the guide 'Thin cells and gene panels'."


def thin_cells_warning(n_cells: int, n_too_few: int, min_genes: int) -> str | None:
    """Return a warning about the thin cells of an experiment, None if there are none.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_too_few
        Number of cells with fewer genes than `min_genes`.
    min_genes
        Minimum number of expressed genes for a description.

    Examples
    --------
    >>> thin_cells_warning(100, 7, min_genes=10)
    "7 of 100 cells express fewer than 10 genes of the model and have no description. See the guide 'Thin cells and \
gene panels'."
    """
    if not n_too_few:
        return None
    return (
        f"{n_too_few:,} of {n_cells:,} cells express fewer than {max(1, min_genes):,} genes of the model and have no "
        f"description. {GUIDE}"
    )


def thin_warnings(summary: dict, min_genes: int) -> list[str]:
    """Return the warnings about an experiment.

    Parameters
    ----------
    summary
        What the model saw, as :func:`cell2text.describe.summary.summarise` returns it.
    min_genes
        Minimum number of expressed genes for a description.
    """
    thin = thin_cells_warning(summary["cells"], summary["cells_with_too_few_genes"], min_genes)
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
