"""The dataset card of prepared data, and its way to the Hub."""

from pathlib import Path

import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.preparation.plan import WORK
from cell2text.preparation.splits import SPLITS
from cell2text.provenance import content_hash


TEXT = """
# Cells and their descriptions

{rows:,} rows, prepared by `cell2text prepare` from {n_files} file(s) of raw single-cell counts: each row holds one cell
(two for the task `compare`) as its genes ranked by expression, a question and its answer as chat messages, and the
cell's metadata. `report.html` has the losses, drops and pictures, `report.json` the same as data.

| split | rows | donors | cell types | tissues | diseases |
|---|---|---|---|---|---|
{splits}

```python
from datasets import load_dataset

rows = load_dataset("PATH_OR_REPOSITORY_OF_THIS_CARD")
```

## Columns

- `cells`: ranked genes, one list a cell, token ids of the gene vocabulary in `vocabulary/` (SHA-256 {vocabulary}).
- `prompt`, `completion`: chat messages; a block of type `cell` stands for a cell. `task` says what is asked.
- `cell_type`, `tissue`, `disease`, `sex`, `development_stage` with their ontology term ids, `life_stage`, `assay`,
  `donor_id`, `dataset_id`: null where unknown.
- `pathways`: the two most active gene sets; `pathways_active`: those in the top 5 % of the sets; `pathway_scores`:
  AUCell scores of all sets, in the order of their file{n_sets}.
- `n_genes`, `mapped_fraction`: expressed genes of the vocabulary, and the share of the counts that falls on them.
- `source`, `source_row`: where the cell stands; `second_cell_id`: the other cell of `compare`.

## How it was made

Sampling: {sampling}. Split: by {split}. Seed: {seed}. Gene sets: {gene_sets}.

| file | SHA-256 | cells | rows | counts lost |
|---|---|---|---|---|
{files}

Ontologies: {ontologies}. Libraries: {libraries}.

## Limits

Labels are those of the files; a label that no ontology knows stands as it is. Descriptions repeat metadata and say
nothing that was not in it, but for pathways, which are AUCell scores of the cell's own counts. The licences of the
source files hold for these rows; they are not known to this program.
"""


def write_card(report: dict, folder: Path) -> None:
    """Write the card as README.md, with the features that `datasets` reads."""
    shards = sorted((folder / "data").glob("*.parquet"))
    used = [split for split in SPLITS if report["splits"][split]["rows"]]
    features = Features.from_arrow_schema(pq.read_schema(shards[0]))
    data = DatasetCardData(
        language="en",
        pretty_name="Cells and their descriptions",
        tags=["single-cell", "scRNA-seq", "cell2text"],
        task_categories=["text-generation"],
        configs=[
            {
                "config_name": "default",
                # `datasets` finds its cache by the folder's name and this text: without it, data sets in folders of one
                # name would be taken for each other.
                "description": f"Run {content_hash(report['provenance'])[:16]}",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in used],
            }
        ],
        dataset_info={"features": features._to_yaml_list()},
    )
    provenance = report["provenance"]
    splits = [
        f"| {split} | {entry['rows']:,} | {entry['donors']} | "
        + " | ".join(str(len(entry["labels"].get(column, {}))) for column in ("cell_type", "tissue", "disease"))
        + " |"
        for split, entry in report["splits"].items()
    ]
    files = [
        f"| {name} | `{entry['sha256']}` | {entry['cells']:,} | {entry['rows']:,} | "
        f"{100 * entry['counts_by_route']['unmapped']:.1f} % |"
        for name, entry in report["files"].items()
    ]
    text = TEXT.format(
        rows=report["rows"],
        n_files=len(files),
        splits="\n".join(splits),
        vocabulary=f"`{provenance['vocabulary']}`"
        if " " not in provenance["vocabulary"]
        else "fitted to the training cells",
        n_sets=f" ({len(report['pathways'])} sets)" if report["pathways"] else " (none were given)",
        sampling=provenance["config"]["sampling"],
        split=provenance["config"]["split"],
        seed=provenance["config"]["seed"],
        gene_sets=f"SHA-256 `{provenance['gene_sets']}`" if provenance["gene_sets"] else "none",
        files="\n".join(files),
        ontologies=", ".join(f"{name} {version}" for name, version in provenance["ontologies"].items()),
        libraries=", ".join(f"{name} {version}" for name, version in provenance["libraries"].items()),
    )
    write_atomically(folder / "README.md", str(DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")).strip() + "\n")


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a prepared folder as a dataset repository of the Hub, and return its address.

    Raises
    ------
    ValueError
        If the folder is not a finished data set.
    """
    if not (folder / "report.json").exists():
        raise UserError(f"{folder} is no finished data set: it has no report.json.")
    api = HfApi()
    api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    return str(
        api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type="dataset", ignore_patterns=[f"{WORK}/*"],
            commit_message="Data prepared by cell2text",
        )
    )  # fmt: skip
