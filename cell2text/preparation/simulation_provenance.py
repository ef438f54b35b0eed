"""Carry the record of `cell2text simulate` from its file into reports and cards. Depends on `sources.amounts`."""

import json
from collections.abc import Mapping
from typing import Any

from cell2text.sources.amounts import read_element


KEY, RECORD = "cell2text", "simulation"  # uns["cell2text"]["simulation"]
SECTION = """
## Simulated cells

Some rows are not measured cells: `cell2text simulate` sampled them around mean expression profiles.

| File | Profiles | SHA-256 | Seed | Cells | Cell types |
|---|---|---|---|---|---|
{files}

| Study of the profiles | Profiles | Terms of use |
|---|---|---|
{studies}
"""


def read_simulation(container: Any) -> dict | None:
    """Return the record of a simulated file, None for any other container.

    Parameters
    ----------
    container
        Container of a `CellSource`. Only h5ad files and zarr stores carry a record.
    """
    root = getattr(container, "root", {})
    if "uns" not in root or KEY not in root["uns"] or RECORD not in root["uns"][KEY]:
        return None
    stored = {name: str(value) for name, value in read_element(root["uns"][KEY][RECORD]).items()}
    return {name: json.loads(value) if value.startswith("{") else value for name, value in stored.items()}


def describe_simulations(files: Mapping[str, dict]) -> str:
    """Return the section of a dataset card about simulated files, `""` if there are none.

    Parameters
    ----------
    files
        Entries of `report.json` by file; those of simulated files have the key `simulation`.
    """
    records = {name: entry["simulation"] for name, entry in files.items() if entry.get("simulation")}
    if not records:
        return ""
    rows: list[str] = []
    studies: dict[str, dict] = {}
    for name, record in records.items():
        summary = record["summary"]
        rows.append(
            f"| {name} | {record['profiles']} | `{record['profiles_sha256']}` | {record['seed']} | "
            f"{summary['cells']:,} | {summary['cell_types']:,} |"
        )
        studies |= summary["studies"]
    terms = [
        f"| {study} | {entry['profiles']:,} | {'; '.join(entry['terms'])} |" for study, entry in sorted(studies.items())
    ]
    return SECTION.format(files="\n".join(rows), studies="\n".join(terms))
