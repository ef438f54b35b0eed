"""Small studies on disk, and runs of `cell2text prepare` on them: shared by the tests of preparation and sources."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import load_dataset

from cell2text.preparation.run import prepare

from .tiny import make_adata, make_vocabulary


TYPES = [("B cell", "CL:0000236"), ("T cell", "CL:0000084"), ("monocyte", "CL:0000576")]
MIX = {"describe": 2.0, "annotate": 1.0, "ask": 1.0, "pathways": 1.0, "compare": 1.0}


def make_file(path, n_cells=60, seed=0, donors=5, prefix="d", **changes):
    """Write counts with CELLxGENE columns; `prefix` makes the donors of different files different."""
    adata = make_adata(n_cells, seed=seed)
    rng = np.random.default_rng(seed)
    types = rng.integers(len(TYPES), size=n_cells)
    adata.obs["cell_type"] = [TYPES[i][0] for i in types]
    adata.obs["cell_type_ontology_term_id"] = [TYPES[i][1] for i in types]
    adata.obs["tissue"], adata.obs["disease"], adata.obs["sex"] = "blood", "normal", "female"
    adata.obs["development_stage_ontology_term_id"] = "HsapDv:0000119"
    adata.obs["donor_id"] = [f"{prefix}{i}" for i in rng.integers(donors, size=n_cells)]
    adata.obs["dataset_id"] = Path(path).stem
    for name, value in changes.items():
        adata.obs[name] = value
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path, compression="gzip")
    return adata


def make_metadata(n=2000, n_donors=40, n_types=8, seed=0):
    """Return metadata of cells, as sampling and splits take them."""
    rng = np.random.default_rng(seed)
    donors = rng.choice(n_donors, size=n, p=rng.dirichlet(np.ones(n_donors)))
    frame = pd.DataFrame(
        {
            "donor": [f"d{i}" for i in donors],
            "donor_id": [f"d{i}" for i in donors],
            "dataset_id": [f"s{i % 6}" for i in donors],
            "cell_type": [f"type {i}" for i in rng.choice(n_types, size=n, p=rng.dirichlet(np.ones(n_types)))],
            "tissue": [f"tissue {i % 5}" for i in donors],
            "disease": ["normal" if i % 3 else "asthma" for i in donors],
            "sex": ["male" if i % 2 else None for i in donors],
            "life_stage": "adulthood",
            "assay": "10x",
            "tissue_ontology_term_id": None,
        }
    )
    return frame.astype("category")


def write_studies(folder):
    """Write three files, a vocabulary and gene sets."""
    for i, name in enumerate(("one", "two", "three")):
        make_file(folder / "cells" / f"{name}.h5ad", 60 + 10 * i, seed=i, prefix=name)
    make_vocabulary().save_pretrained(folder / "vocabulary")
    sets = [f"SET_{i}\tx\t" + "\t".join(f"GENE{j}" for j in range(5 * i, 5 * i + 8)) for i in range(8)]
    (folder / "sets.gmt").write_text("\n".join(sets) + "\n")
    return folder


def prepare_studies(studies, out, inputs=None, **options):
    """Prepare the three files, or other inputs with their vocabulary and gene sets."""
    given = {
        "gene_vocab": str(studies / "vocabulary"), "gene_sets": str(studies / "sets.gmt"), "tasks": MIX,
        "progress": False, "cells_per_shard": 25, "split": "donor", **options,
    }  # fmt: skip
    return prepare(inputs or [studies / "cells"], out, **{k: v for k, v in given.items() if v is not None})


def digest(folder) -> str:
    """Hash names and contents of all files of an output folder."""
    content = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            content.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return content.hexdigest()


def load_rows(folder, tmp_path):
    """Load a prepared folder with a cache of its own."""
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
