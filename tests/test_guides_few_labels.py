"""The Python of docs/guides/few_labels.md runs."""

import re
from pathlib import Path

import numpy as np


GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "few_labels.md").read_text(encoding="utf-8")


def test_five_labelled_cells_per_type_annotate_the_example_cells():
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.M | re.S)
    scope: dict = {}
    exec(code, scope)
    adata, labels, labelled = scope["adata"], scope["labels"], scope["labelled"]
    test = np.isin(labels, scope["types"])
    test[labelled] = False
    assert (adata.obs["my_cell_type"].to_numpy() == labels)[test].mean() > 2 / len(scope["types"])
