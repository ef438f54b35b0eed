"""Write the dataset card of prepared data, and upload them to the Hub. Depends on datasets and huggingface_hub."""

from pathlib import Path

import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.preparation.output_folder import CARD_FILE, DATA_FOLDER, REPORT_FILE, WORK_FOLDER
from cell2text.preparation.own_columns import describe_leakage, describe_own_tasks
from cell2text.preparation.plan import FITTED
from cell2text.preparation.report import describe_split, describe_stated_types, describe_uncovered
from cell2text.preparation.simulation_provenance import describe_simulations
from cell2text.preparation.splits import SPLITS
from cell2text.provenance import content_hash


SPLIT_SENTENCES = (describe_split, describe_uncovered, describe_stated_types, describe_own_tasks, describe_leakage)
TITLE = "Cells and their descriptions"
CARD_TEMPLATE = """
# {title}

{rows:,} rows, prepared by `cell2text prepare` from {n_files} file(s) of raw single-cell counts. Each row holds one cell
(two for the task `compare`) as genes ranked by expression, a prompt and a completion as chat messages, and the cell's
metadata. `report.html` shows what was kept, dropped and mapped; `report.json` holds the same numbers.

| Split | Rows | Donors | Cell types | Tissues | Diseases |
|---|---|---|---|---|---|
{splits}

```python
from datasets import load_dataset

rows = load_dataset("PATH_OR_REPOSITORY_OF_THIS_CARD")
```

## Columns

- `cells`: ranked genes, one list per cell, as token ids of the gene vocabulary in `vocabulary/` (SHA-256 {vocabulary}).
- `prompt`, `completion`: chat messages. A block of type `cell` stands for a cell. `task` names the task.
- `cell_type`, `tissue`, `disease`, `sex`, `development_stage` with their ontology term ids, `life_stage`, `assay`,
  `donor_id`, `dataset_id`: null where unknown.
- `stated_cell_type` with its ontology term id: the type that the text names, the label or a broader term of the Cell
  Ontology. `likely_subtype`, `likely_subtype_probability`: the label and a random probability, where the text names a
  broader term and a likely subtype.
- `pathways`: the two most active gene sets. `pathways_active`: the most active 5 % of the sets. `pathway_scores`:
  AUCell scores of all sets, in the order of their file{n_sets}.
- `n_genes`: expressed genes of the vocabulary. `mapped_fraction`: their share of the cell's counts.
- `source`, `source_row`: file and row of the cell. `second_cell_id`: the other cell of `compare`.

## Preparation

{split}

Sampling: {sampling}. Random seed: {seed}. Gene sets: {gene_sets}.

| File | SHA-256 | Cells | Rows | Unmapped counts |
|---|---|---|---|---|
{files}

Ontologies: {ontologies}. Libraries: {libraries}.
{simulations}
## Limits

Labels are those of the files; labels that match no ontology term are unchanged. Descriptions repeat the metadata and
add only pathways, which are AUCell scores of the cell's own counts. The licences of the source files apply to these
rows; only those of simulated cells are recorded here.
"""


def write_card(report: dict, folder: Path) -> None:
    """Write the card as README.md, with the column types that `datasets` reads.

    Parameters
    ----------
    report
        Content of `report.json`.
    folder
        Output folder, which contains the shards.
    """
    provenance = report["provenance"]
    n_sets = len(report["pathways"])
    is_hash = provenance["vocabulary"] != FITTED
    text = CARD_TEMPLATE.format(
        title=TITLE,
        rows=report["rows"],
        n_files=len(report["files"]),
        splits="\n".join(_split_row(split, entry) for split, entry in report["splits"].items()),
        vocabulary=f"`{provenance['vocabulary']}`" if is_hash else FITTED,
        n_sets=f" ({n_sets} sets)" if n_sets else " (no gene sets)",
        sampling=provenance["config"]["sampling"],
        split=" ".join(sentence for describe in SPLIT_SENTENCES if (sentence := describe(report))),
        seed=provenance["config"]["seed"],
        gene_sets=f"SHA-256 `{provenance['gene_sets']}`" if provenance["gene_sets"] else "none",
        files="\n".join(_file_row(name, entry) for name, entry in report["files"].items()),
        simulations=describe_simulations(report["files"]),
        ontologies=", ".join(f"{name} {version}" for name, version in provenance["ontologies"].items()),
        libraries=", ".join(f"{name} {version}" for name, version in provenance["libraries"].items()),
    )
    header = _card_header(report, folder).to_yaml()
    write_atomically(folder / CARD_FILE, str(DatasetCard(f"---\n{header}\n---\n{text}")).strip() + "\n")


def _card_header(report: dict, folder: Path) -> DatasetCardData:
    shards = sorted((folder / DATA_FOLDER).glob("*.parquet"))
    features = Features.from_arrow_schema(pq.read_schema(shards[0]))
    filled = [split for split in SPLITS if report["splits"][split]["rows"]]
    return DatasetCardData(
        language="en",
        pretty_name=TITLE,
        tags=["single-cell", "scRNA-seq", "cell2text"],
        task_categories=["text-generation"],
        configs=[
            {
                "config_name": "default",
                # `datasets` caches by the folder's name and this text, so the text must differ between data sets.
                "description": f"Run {content_hash(report['provenance'])[:16]}",
                "data_files": [{"split": split, "path": f"{DATA_FOLDER}/{split}-*.parquet"} for split in filled],
            }
        ],
        dataset_info={"features": features._to_yaml_list()},
    )


def _split_row(split: str, entry: dict) -> str:
    n_labels = (str(len(entry["labels"].get(column, {}))) for column in ("cell_type", "tissue", "disease"))
    return f"| {split} | {entry['rows']:,} | {entry['donors']} | {' | '.join(n_labels)} |"


def _file_row(name: str, entry: dict) -> str:
    unmapped = f"{100 * entry['counts_by_route']['unmapped']:.1f} %"
    return f"| {name} | `{entry['sha256']}` | {entry['cells']:,} | {entry['rows']:,} | {unmapped} |"


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a prepared folder as a dataset repository.

    Parameters
    ----------
    folder
        Output folder of a finished run.
    repository
        Dataset repository, `OWNER/NAME`; created if it does not exist.
    private
        Make a new repository private.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    UserError
        If the folder is not the output of a finished run.
    """
    if not (folder / REPORT_FILE).exists():
        raise UserError(f"{folder} is not a finished data set: it has no {REPORT_FILE}. Run `cell2text prepare` first.")
    api = HfApi()
    api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    return str(
        api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type="dataset", ignore_patterns=[f"{WORK_FOLDER}/*"],
            commit_message="Upload data prepared by cell2text",
        )
    )  # fmt: skip
