"""A described file for the tests of the app: real cells, some with hostile names, and a map of their own."""

import anndata as ad
import numpy as np
import pandas as pd


HOSTILE = "<img src=x onerror=\"document.body.dataset.evil='yes'\">"
TEMPLATE = "${document.body.dataset.evil='yes'} {{constructor}} `x` \\"
SCRIPT = "</script><script>document.body.dataset.evil='yes'</script>"
N_CELLS = 60


def described_cells() -> ad.AnnData:
    """Describe cells of the pancreas and of the kidney, which are apart on the map; cells 1 to 3 have hostile names."""
    import cell2text

    adata = cell2text.example_cells(unseen=True)
    adata = adata[np.linspace(0, adata.n_obs - 1, N_CELLS).astype(int)].copy()
    adata.obs = adata.obs[["cell_type", "dataset_id"]].copy()
    cell2text.tl.describe(adata)
    is_kidney = (adata.obs["dataset_id"] == "kidney_immune").to_numpy()
    places = np.random.default_rng(0).normal(0, 1, (N_CELLS, 2)) + 10 * is_kidney[:, None]
    adata.obsm["X_umap"] = places.astype(np.float32)
    adata.obs["label"] = pd.Categorical(np.where(is_kidney, "kidney", HOSTILE))
    adata.obs["score"] = np.arange(N_CELLS, dtype=np.float64)
    adata.obs_names = [f"cell{i}" if i not in (1, 2, 3) else (HOSTILE, TEMPLATE, SCRIPT)[i - 1] for i in range(N_CELLS)]
    return adata
