"""Gene vocabularies that `prepare` and `vocab` fit."""

import anndata as ad
import numpy as np
import pandas as pd

from cell2text.preparation.run import fit_vocabulary_from_files
from vocabulary_cell2text import GeneVocabulary

from .preparation_runs import load_rows, prepare_studies


def test_prepare_fits_a_vocabulary_to_training_cells_only(studies, tmp_path):
    prepare_studies(studies, tmp_path / "out", gene_vocab=None)
    data = load_rows(tmp_path / "out", tmp_path)
    found = GeneVocabulary.from_pretrained(tmp_path / "out" / "vocabulary")
    from cell2text.preparation.medians import fit_vocabulary

    training = []
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(studies / "cells" / f"{name}.h5ad")
        numbers = [row for source, row in zip(data["train"]["source"], data["train"]["source_row"]) if source == name]
        training.append(adata[sorted(numbers)])
    expected = fit_vocabulary(training)
    assert found.tokens == expected.tokens and np.allclose(found.medians[4:], expected.medians[4:])
    assert found.symbols == expected.symbols


def test_vocab_fits_all_cells_with_any_number_of_workers(studies, tmp_path):
    first = fit_vocabulary_from_files([studies / "cells"], tmp_path / "a", progress=False)
    second = fit_vocabulary_from_files(
        [studies / "cells"], tmp_path / "b", progress=False, workers=2, cells_per_shard=20
    )
    assert first.fingerprint == second.fingerprint
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["gene_aliases.tsv", "gene_vocabulary.tsv"]
    from cell2text.preparation.medians import fit_vocabulary

    adatas = [ad.read_h5ad(path) for path in sorted((studies / "cells").glob("*"))]
    assert fit_vocabulary(adatas).fingerprint == first.fingerprint


def test_vocab_ignores_counts_of_an_older_run(studies, tmp_path):
    (tmp_path / "out" / ".prepare" / "medians").mkdir(parents=True)
    np.savez(
        tmp_path / "out" / ".prepare" / "medians" / "00000.npz",
        keys=np.zeros(0, np.uint64),
        counts=np.zeros(0, np.int64),
    )
    found = fit_vocabulary_from_files([studies / "cells"], tmp_path / "out", progress=False)
    assert len(found) == 64


def test_vocab_needs_no_labels_and_reads_symbols(tmp_path):
    genes = ["TP53", "GNB2L1", "ENSG00000141510", "HLA.DRA", "nobody"]
    adata = ad.AnnData(np.full((30, len(genes)), 2, dtype=np.float32), var=pd.DataFrame(index=genes))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    vocabulary = fit_vocabulary_from_files([tmp_path / "cells.h5ad"], tmp_path / "out", progress=False, min_cells=1)
    assert vocabulary.tokens[4:] == ["ENSG00000141510", "ENSG00000204287", "ENSG00000204628"]
    assert vocabulary.symbols[4:] == ["TP53", "HLA-DRA", "RACK1"]
