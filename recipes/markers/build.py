"""Build the table of marker genes that ships with the package: cell2text/ontology/markers.tsv.gz.

    python recipes/markers/build.py cell_type_markers.tsv.gz

The input is the table of Cell Marker Accordion (MIT), reduced to the resources MSigDB, CELLxGENE and ASCT+B, whose data
are CC BY 4.0. `markers.md` beside the table states the rules. The same input gives the same bytes.
"""

import argparse
import gzip
import io
from pathlib import Path

import pandas as pd

from cell2text.files import atomic_path
from cell2text.ontology.markers import COLUMNS, MARKERS_FILE
from cell2text.sources.gene_tables import ensembl_ids


RESOURCES = {"MSigDB", "CELLxGENE", "ASCT+B"}
MARKERS_PER_TYPE = 100


def marker_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the best supported markers of each Cell Ontology term, best first.

    Parameters
    ----------
    rows
        Columns `CL_ID`, `marker`, `marker_type`, `resource`, `ECs_global` (number of sources that name the marker for
        the type) and `SPs_global` (specificity, the inverse of the number of types that it is a marker for).
    """
    rows = rows[rows["resource"].isin(RESOURCES) & (rows["marker_type"] == "positive")]
    rows = rows.assign(gene=ensembl_ids(rows["marker"])[0])
    rows = rows[rows["gene"] != ""].groupby(["CL_ID", "gene"], as_index=False)[["ECs_global", "SPs_global"]].max()
    rows = rows.sort_values(["CL_ID", "ECs_global", "SPs_global", "gene"], ascending=[True, False, False, True])
    best = rows.groupby("CL_ID").head(MARKERS_PER_TYPE)
    return best.set_axis([*COLUMNS, "specificity"], axis=1)[list(COLUMNS)].rename_axis(None, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="table of Cell Marker Accordion")
    args = parser.parse_args()
    table = marker_table(pd.read_csv(args.rows, sep="\t"))
    text = io.BytesIO()
    with gzip.GzipFile(fileobj=text, mode="wb", mtime=0) as file:
        file.write(table.to_csv(sep="\t", index=False).encode())
    with atomic_path(MARKERS_FILE) as partial:
        partial.write_bytes(text.getvalue())
    print(f"{len(table):,} markers of {table['cell_type_ontology_term_id'].nunique()} cell types")


if __name__ == "__main__":
    main()
