"""Generate synthetic counts for the benchmarks: negative binomial, 36,000 genes, 20,000 of them in the vocabulary."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


N_GENES, N_CODING = 36_000, 20_000
KINDS = {"sparse": 3_250, "dense": 35_000}  # mean counts per cell; about 1,760 and 7,170 expressed genes


def synthetic_counts(kind: str, n_cells: int, *, seed: int = 0) -> sp.csr_matrix:
    """Sample over-dispersed counts as float32 CSR; gene means and cell depths are log-normal."""
    rng = np.random.default_rng(seed)
    means = rng.lognormal(0.0, 2.2, size=N_GENES)
    means[N_CODING:] *= 0.3
    means /= means.sum()
    blocks = []
    for start in range(0, n_cells, 500):
        depths = KINDS[kind] * rng.lognormal(0, 0.4, size=min(500, n_cells - start))
        rates = rng.gamma(2.0, 0.5, size=(len(depths), N_GENES)) * means * depths[:, None]
        blocks.append(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    return sp.vstack(blocks, format="csr")


def synthetic_vocabulary(*, seed: int = 0) -> GeneVocabulary:
    rng = np.random.default_rng(seed)
    genes = [f"ENSG{index:011d}" for index in range(N_CODING)]
    medians = [*[np.nan] * len(SPECIAL_TOKENS), *rng.lognormal(0.5, 0.6, size=N_CODING)]
    symbols = [*[""] * len(SPECIAL_TOKENS), *(f"GENE{index}" for index in range(N_CODING))]
    return GeneVocabulary([*SPECIAL_TOKENS, *genes], np.array(medians), symbols, max_genes=2048)


def synthetic_adata(kind: str, n_cells: int, *, seed: int = 0) -> ad.AnnData:
    """Build cells with CELLxGENE columns and ten donors."""
    counts = synthetic_counts(kind, n_cells, seed=seed)
    types = [
        ("B cell", "CL:0000236"),
        ("T cell", "CL:0000084"),
        ("monocyte", "CL:0000576"),
        ("fibroblast", "CL:0000057"),
    ]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(types), size=n_cells)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([types[i][0] for i in chosen]),
            "cell_type_ontology_term_id": pd.Categorical([types[i][1] for i in chosen]),
            "tissue": pd.Categorical(["blood"] * n_cells),
            "tissue_ontology_term_id": pd.Categorical(["UBERON:0000178"] * n_cells),
            "disease": pd.Categorical(["normal"] * n_cells),
            "disease_ontology_term_id": pd.Categorical(["PATO:0000461"] * n_cells),
            "donor_id": pd.Categorical([f"donor{i}" for i in rng.integers(10, size=n_cells)]),
            "dataset_id": pd.Categorical(["synthetic"] * n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(
        {"feature_name": [f"GENE{i}" for i in range(N_GENES)]}, index=[f"ENSG{i:011d}" for i in range(N_GENES)]
    )
    return ad.AnnData(counts, obs=obs, var=var)
