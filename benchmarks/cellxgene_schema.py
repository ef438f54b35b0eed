"""Files of the CELLxGENE schema, valid and invalid ones: what its validator says, and what `cell2text describe` does.

    pip install "cellxgene-schema>=6,<7"      # in an environment of its own: it pins an older anndata
    python benchmarks/cellxgene_schema.py --validator ENV/bin/python --schema 6 --out FOLDER

Writes one small file per situation, prints what becomes of each, and stores the table in
`benchmarks/results/cellxgene_schema.json`. `--files-only` writes and validates the files only.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp


N_CELLS, N_GENES = 12, 400
RESULTS = Path(__file__).resolve().parent / "results" / "cellxgene_schema.json"
VOCABULARY = Path(__file__).resolve().parents[1] / "cell2text" / "models" / "mini" / "gene_vocabulary.tsv"
OBS = {
    "cell_type_ontology_term_id": "CL:0000084",
    "assay_ontology_term_id": "EFO:0009922",
    "disease_ontology_term_id": "PATO:0000461",
    "sex_ontology_term_id": "PATO:0000384",
    "tissue_ontology_term_id": "UBERON:0000178",
    "tissue_type": "tissue",
    "self_reported_ethnicity_ontology_term_id": "unknown",
    "development_stage_ontology_term_id": "unknown",
    "donor_id": "donor",
    "suspension_type": "cell",
}
HUMAN = "NCBITaxon:9606"
# Runs in the environment of cellxgene-schema, whose import takes longer than a validation.
VALIDATION = """
import json, sys
from importlib.metadata import version
from pathlib import Path
from cellxgene_schema.validate import validate
*paths, labelled = sys.argv[1:]
found = {"version": version("cellxgene-schema")}
for path in paths:
    valid, errors, _ = validate(path, labelled if path == paths[0] else None)
    found[Path(path).stem] = "valid" if valid else (errors or ["invalid"])[0]
print(json.dumps(found))
"""


def valid_file(schema: int) -> ad.AnnData:
    """Return an AnnData that follows the schema: logarithms in `X`, counts in `raw.X`, Ensembl ids as names."""
    rng = np.random.default_rng(0)
    genes = pd.read_csv(VOCABULARY, sep="\t", comment="#")["ensembl_id"]
    genes = genes[genes.str.startswith("ENSG")].iloc[:N_GENES]
    counts = sp.csr_matrix(rng.poisson(0.6, (N_CELLS, N_GENES)).astype(np.float32))
    obs = pd.DataFrame(OBS, index=[f"cell{number}" for number in range(N_CELLS)]).astype("category")
    obs["is_primary_data"] = True
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    adata.raw = adata.copy()
    adata.var["feature_is_filtered"] = False
    adata.X = counts.multiply(1e4 / counts.sum(1)).log1p().tocsr().astype(np.float32)
    adata.obsm["X_umap"] = rng.normal(size=(N_CELLS, 2)).astype(np.float32)
    adata.uns |= {"title": "A data set", "default_embedding": "X_umap"}
    if schema >= 6:
        adata.uns["organism_ontology_term_id"] = HUMAN
    else:
        adata.obs["organism_ontology_term_id"] = pd.Categorical([HUMAN] * N_CELLS)
    return adata


def with_raw(adata: ad.AnnData, change: Callable[[sp.csr_matrix], sp.csr_matrix]) -> None:
    raw = ad.AnnData(change(adata.raw.X.copy()), obs=adata.obs[[]], var=adata.raw.var)
    adata.raw = raw


def counts_in_x(adata: ad.AnnData) -> None:
    adata.X = adata.raw.X.copy()
    del adata.raw


def logarithms_only(adata: ad.AnnData) -> None:
    del adata.raw


def normalised_raw(adata: ad.AnnData) -> None:
    with_raw(adata, lambda counts: sp.csr_matrix(counts.multiply(0.37)))


def a_cell_without_counts(adata: ad.AnnData) -> None:
    with_raw(adata, lambda counts: sp.csr_matrix(counts.multiply(np.arange(N_CELLS)[:, None] > 0)))


def renamed(adata: ad.AnnData, names: pd.Index) -> None:
    raw = ad.AnnData(adata.raw.X, obs=adata.obs[[]], var=pd.DataFrame(index=names))
    adata.var.index, adata.raw = names, raw


def versioned_ids(adata: ad.AnnData) -> None:
    renamed(adata, adata.var_names + ".3")


def symbols_as_names(adata: ad.AnnData) -> None:
    table = pd.read_csv(VOCABULARY, sep="\t", comment="#").set_index("ensembl_id")["symbol"]
    renamed(adata, pd.Index(table.loc[adata.var_names].fillna("unnamed")))


def no_donor(adata: ad.AnnData) -> None:
    del adata.obs["donor_id"]


def filtered_genes(adata: ad.AnnData) -> None:
    """`X` has no values for some genes, which only `raw` has: valid."""
    adata.var.iloc[:50, adata.var.columns.get_loc("feature_is_filtered")] = True
    adata.X = sp.csr_matrix(adata.X.multiply((np.arange(N_GENES) >= 50)[None]))
    adata.X.eliminate_zeros()


SITUATIONS = [
    counts_in_x,
    filtered_genes,
    logarithms_only,
    normalised_raw,
    a_cell_without_counts,
    versioned_ids,
    symbols_as_names,
    no_donor,
]


def write_files(schema: int, out: Path) -> list[Path]:
    """Write the valid file and its variants."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for change in (None, *SITUATIONS):
        adata = valid_file(schema)
        if change:
            change(adata)
        paths.append(out / f"schema{schema}_{change.__name__ if change else 'valid'}.h5ad")
        adata.write_h5ad(paths[-1], compression="gzip")
    return paths


def validate(validator: str, paths: list[Path], labelled: Path) -> dict[str, str]:
    """Return `valid` or the first error per file; the first file is copied with the labels that the portal adds."""
    command = [validator, "-c", VALIDATION, *map(str, paths), str(labelled)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def describe(path: Path) -> dict[str, str]:
    """Return whether `cell2text describe` describes a file, and how it says to have read it or why it refuses it."""
    command = [sys.executable, "-m", "cell2text", "describe", str(path), "--max-new-tokens", "2", "--overwrite"]
    done = subprocess.run(
        [*command, "--out", str(path.with_suffix(".jsonl"))], capture_output=True, text=True, cwd=path.parent
    )
    if done.returncode:
        return {"describe": "refused", "message": " / ".join(done.stderr.strip().splitlines())}
    seen = [line for line in done.stdout.splitlines() if "of the model's" in line]
    return {"describe": "read", "message": seen[-1]}


def store(schema: int, version: str, files: dict[str, dict[str, str]]) -> None:
    """Add the table of one schema to the stored ones."""
    tables = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    tables[f"schema {schema}"] = {"validator": f"cellxgene-schema {version}", "files": files}
    RESULTS.write_text(json.dumps(dict(sorted(tables.items())), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--validator", required=True, help="Python of the environment with cellxgene-schema")
    parser.add_argument("--schema", type=int, choices=(5, 6), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files-only", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = write_files(args.schema, args.out)
    labelled = args.out / f"schema{args.schema}_labelled.h5ad"
    verdicts = validate(args.validator, paths, labelled)
    files = {}
    for path in [*paths, labelled]:
        name = path.stem.partition("_")[2]
        files[name] = {"validator": verdicts.get(path.stem, "valid, with the labels that it adds")}
        if not args.files_only:
            files[name] |= describe(path)
        print(name, *files[name].values(), sep=" | ", flush=True)
    if not args.files_only:
        store(args.schema, verdicts["version"], files)


if __name__ == "__main__":
    main()
