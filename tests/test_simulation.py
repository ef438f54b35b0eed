"""`cell2text simulate`: cells sampled around mean profiles, and input that cannot be sampled."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cell2text
from cell2text.errors import UserError
from cell2text.preparation.profiles import read_profiles
from cell2text.preparation.real_cells import DEFAULT_DISPERSION, fit_dispersion, gene_kinds, read_real_studies
from cell2text.preparation.simulated_counts import CellSimulator
from cell2text.preparation.simulation import simulate
from cell2text.preparation.simulation_provenance import describe_simulations
from cell2text.sources.gene_tables import approved_symbols

from .conftest import run_cli, shared_path


SYMBOLS = {symbol: gene for gene, symbol in approved_symbols().items()}
MITOCHONDRIAL = [SYMBOLS[name] for name in ("MT-ND1", "MT-CO1", "MT-CYB")]
MARKERS = [SYMBOLS[name] for name in ("CD3E", "MS4A1", "INS", "VWF")]
OTHERS = [f"ENSG00000{number:06d}" for number in range(600_000, 600_060)]
TYPES = ("T cell", "B cell", "type B pancreatic cell", "endothelial cell")


def profile_table(**columns) -> ad.AnnData:
    """Four linear profiles, each with one marker gene, and a logarithmic one; the first lacks the last gene."""
    values = np.full((5, len(MARKERS) + len(OTHERS)), 1.0, dtype=np.float32)
    values[:4, : len(MARKERS)] = 0.01 + 20 * np.eye(4)
    values[0, -1] = np.nan
    obs = pd.DataFrame(
        {
            "cell_type": [*TYPES, "neuron"],
            "study": ["one", "one", "one", "two", "two"],
            "dataset": ["one a", "one a", "one b", "two a", "two a"],
            "tissue": "blood",
            "tissue_ontology_term_id": "UBERON:0000178",
            "scale": ["linear", "linear", "linear, summed raw counts", "linear", "log"],
            "data_terms": "CC-BY-4.0",
            **columns,
        },
        index=[f"profile {i}" for i in range(5)],
    )
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=[*MARKERS, *OTHERS]))


def real_table() -> ad.AnnData:
    """Two types with 60 cells each; a tenth of the counts are mitochondrial."""
    rng = np.random.default_rng(0)
    genes = [*MITOCHONDRIAL, *MARKERS, *OTHERS]
    means = np.full((120, len(genes)), 5.0)
    means[:, :3] = 12.0
    means[:60, 3], means[60:, 4] = 60, 60
    counts = rng.poisson(means * rng.gamma(4, 0.25, size=means.shape))
    labels = ["T cell"] * 60 + ["B cell"] * 60
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"cell_type": labels}, index=[f"c{i}" for i in range(120)]),
        var=pd.DataFrame(index=genes),
    )


@pytest.fixture
def write(tmp_path):
    """Write an AnnData and return its path as text."""

    def write_file(adata: ad.AnnData, name: str) -> str:
        adata.write_h5ad(tmp_path / name)
        return str(tmp_path / name)

    return write_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Inputs, the output file and the summary of a simulation of the four profiles."""
    folder = tmp_path_factory.mktemp("simulation")
    profile_table().write_h5ad(folder / "profiles.h5ad")
    real_table().write_h5ad(folder / "real.h5ad")
    out = folder / "simulated.h5ad"
    summary = simulate(
        folder / "profiles.h5ad", out, like=[folder / "real.h5ad"], cells_per_profile=40, outliers=0.5, progress=False
    )
    return folder, out, summary


def test_output_holds_raw_counts_and_the_columns_of_cellxgene(finished):
    _, out, summary = finished
    adata = ad.read_h5ad(out)
    assert sp.issparse(adata.X) and adata.X.dtype == np.int32 and (adata.X.data > 0).all()
    assert adata.var_names.is_monotonic_increasing and set(MITOCHONDRIAL) <= set(adata.var_names)
    assert adata.obs_names.is_unique and (np.asarray(adata.X.sum(axis=1)) > 0).all()
    cells = adata.obs[adata.obs.simulated_kind == "cell"]
    assert set(cells.cell_type) == set(TYPES)
    assert set(cells.cell_type_ontology_term_id[cells.cell_type == "T cell"]) == {"CL:0000084"}
    assert set(adata.obs.dataset_id) == {"one a", "one b", "two a"} and set(adata.obs.study) == {"one", "two"}
    assert set(adata.obs.assay) == {"simulated"}
    assert adata.obs.simulated.all() and set(adata.obs.licence) == {"CC-BY-4.0"}
    assert summary["cells"] == adata.n_obs == 320


def test_provenance_names_profiles_seed_and_terms(finished):
    folder, out, summary = finished
    stored = ad.read_h5ad(out).uns["cell2text"]["simulation"]
    assert len(stored["profiles_sha256"]) == 64 and stored["profiles"] == "profiles.h5ad" and stored["seed"] == "0"
    assert json.loads(stored["summary"]) == summary
    assert summary["studies"]["two"] == {"profiles": 1, "datasets": ["two a"], "terms": ["CC-BY-4.0"]}
    assert str(folder) not in json.dumps(stored.copy(), default=str)


def test_profiles_that_are_not_linear_are_counted_as_skipped(finished):
    assert finished[2]["skipped"] == {"scale 'log'": 1} and finished[2]["profiles"] == 4


def test_cells_express_the_marker_of_their_type(finished):
    adata = ad.read_h5ad(finished[1])
    adata = adata[adata.obs.simulated_kind == "cell"]
    for name, marker in zip(TYPES, MARKERS):
        counts = np.asarray(adata[:, marker].X.sum(axis=1)).ravel()
        own = (adata.obs.cell_type == name).to_numpy()
        assert counts[own].mean() > 5 * counts[~own].mean(), name


def test_mitochondrial_share_comes_from_the_real_cells(finished):
    adata = ad.read_h5ad(finished[1])
    real = real_table()
    share = [
        float(np.mean(np.asarray(one[:, MITOCHONDRIAL].X.sum(axis=1)) / np.asarray(one.X.sum(axis=1))))
        for one in (adata[adata.obs.simulated_kind == "cell"], real)
    ]
    assert share[0] == pytest.approx(share[1], abs=0.04)


def test_outliers_have_the_kinds_and_labels_that_they_state(finished):
    adata = ad.read_h5ad(finished[1])
    kind, label = adata.obs.simulated_kind, adata.obs.cell_type.astype(str)
    assert set(kind) == {"cell", "ambient", "doublet", "shuffled", "thinned"} and (kind != "cell").mean() == 0.5
    assert set(label[kind.isin(["ambient", "shuffled"])]) == {"unknown"}
    assert "unknown" not in set(label[~kind.isin(["ambient", "shuffled"])])
    doublets = adata.obs[kind == "doublet"]
    assert (doublets.second_cell_type.astype(str) != doublets.cell_type.astype(str)).all()
    assert set(adata.obs.second_cell_type[kind != "doublet"]) == {""}
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    assert np.median(totals[kind == "thinned"]) < 150 < np.median(totals[kind == "cell"])


def test_doublets_express_both_markers(finished):
    adata = ad.read_h5ad(finished[1])
    doublets = adata[adata.obs.simulated_kind == "doublet"]
    for column in ("cell_type", "second_cell_type"):
        markers = doublets.obs[column].map(dict(zip(TYPES, MARKERS)))
        share = [doublets[cell, gene].X.sum() / doublets[cell].X.sum() for cell, gene in markers.items()]
        assert np.mean(share) > 0.03, column


def test_same_seed_gives_the_same_cells_and_another_seed_others(finished, tmp_path):
    folder, out, _ = finished
    options = {"like": [folder / "real.h5ad"], "cells_per_profile": 40, "outliers": 0.5, "progress": False}
    for seed in (0, 1):
        simulate(folder / "profiles.h5ad", tmp_path / f"{seed}.h5ad", seed=seed, **options)
    first, same, other = (ad.read_h5ad(path) for path in (out, tmp_path / "0.h5ad", tmp_path / "1.h5ad"))
    assert (first.X != same.X).nnz == 0 and first.obs.equals(same.obs)
    assert other.X.nnz != first.X.nnz and not set(other.obs_names) & set(first.obs_names)


def test_studies_are_chosen_by_study_or_dataset(finished, tmp_path):
    folder = finished[0]
    options = {"like": [folder / "real.h5ad"], "cells_per_profile": 2, "outliers": 0.0, "progress": False}
    one = simulate(folder / "profiles.h5ad", tmp_path / "1.h5ad", only_study=["one"], **options)
    assert one["profiles"] == 3 and one["skipped"] == {"study not chosen": 2}
    rest = simulate(folder / "profiles.h5ad", tmp_path / "2.h5ad", without_study=["one a", "two"], **options)
    assert rest["studies"] == {"one": {"profiles": 1, "datasets": ["one b"], "terms": ["CC-BY-4.0"]}}


def test_a_real_file_lends_genes_that_a_profile_lacks(finished):
    adata = ad.read_h5ad(finished[1])
    lacking = adata[(adata.obs.profile_id == "profile 0") & (adata.obs.simulated_kind == "cell"), OTHERS[-1]]
    assert lacking.X.sum() > 0


def test_dispersion_is_estimated_from_cells_of_one_type(write):
    studies, _ = read_real_studies([write(real_table(), "real.h5ad")], np.array(OTHERS), allow_fractional=False, seed=0)
    assert np.exp(np.median(fit_dispersion(studies).log_phi)) == pytest.approx(0.25, rel=0.4)
    studies[0].types = [None] * len(studies[0].types)
    assert fit_dispersion(studies) is DEFAULT_DISPERSION


def test_simulated_cells_are_prepared_like_any_file(finished, tmp_path):
    report = cell2text.prepare(
        [finished[1]], tmp_path / "prepared", min_cells=1, gene_sets=None, split="random", progress=False
    )
    assert report["rows"] > 0
    (entry,) = report["files"].values()
    assert entry["simulation"]["summary"] == finished[2] and len(entry["simulation"]["profiles_sha256"]) == 64
    card = (tmp_path / "prepared" / "README.md").read_text()
    assert "## Simulated cells" in card and "| two | 1 | CC-BY-4.0 |" in card


def test_cards_without_simulated_files_have_no_section_about_them():
    assert describe_simulations({"cells": {"rows": 3}}) == ""


def test_housekeeping_genes_move_to_the_share_in_the_real_file(write):
    """A gene of all types that the file has ten times as much of rises; a marker of the profiles does not."""
    table = profile_table()
    table = ad.AnnData(
        np.full((6, table.n_vars), 1.0, dtype=np.float32) + 30 * np.eye(6, table.n_vars, dtype=np.float32),
        obs=table.obs.iloc[[0, 1, 2, 3, 0, 1]].assign(dataset="one").reset_index(drop=True).rename(index=str),
        var=table.var,
    )
    real = real_table()
    real.obs["cell_type"] = np.repeat(["T cell", "B cell", "monocyte"], 40)
    real.X = real.X.multiply(np.where(real.var_names == OTHERS[20], 10, 1)).tocsr()
    profiles = read_profiles(write(table, "p.h5ad"))
    studies, genes = read_real_studies([write(real, "r.h5ad")], profiles.genes, allow_fractional=False, seed=0)
    kinds = gene_kinds(genes, studies, profiles)
    factor = CellSimulator(profiles, studies, genes, kinds, fit_dispersion(studies), 0)._platform(0, studies[0])
    place = {gene: i for i, gene in enumerate(genes)}
    assert kinds.housekeeping[place[OTHERS[20]]] and not kinds.housekeeping[place[MARKERS[2]]]
    assert factor[place[OTHERS[20]]] > 5 and factor[place[MARKERS[2]]] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.obs.drop(columns="cell_type"), "lacks the column(s) cell_type", id="no_cell_type"),
        pytest.param(lambda t: t.obs.drop(columns="study"), "lacks the column(s) study", id="no_study"),
        pytest.param(lambda t: t.obs.drop(columns="scale"), "lacks the column(s) scale", id="no_scale"),
        pytest.param(lambda t: t.obs.assign(scale="log"), "no profile can be sampled (5 scale 'log')", id="logarithms"),
    ],
)
def test_profiles_whose_obs_cannot_be_used(write, tmp_path, change, message):
    table = profile_table()
    table.obs = change(table)
    with pytest.raises(UserError, match="profiles.h5ad") as error:
        simulate(write(table, "profiles.h5ad"), tmp_path / "out.h5ad", like=[write(real_table(), "r.h5ad")])
    assert message in str(error.value) and not (tmp_path / "out.h5ad").exists()


def test_negative_values_name_the_profile(write, tmp_path):
    table = profile_table()
    table.X[1, 5] = -2
    with pytest.raises(UserError, match=r"1 profiles .* negative values, the first is -2 in 'profile 1'"):
        simulate(write(table, "p.h5ad"), tmp_path / "out.h5ad", like=[write(real_table(), "r.h5ad")])


def test_profiles_without_values_are_skipped_and_reported(write, tmp_path):
    table = profile_table()
    table.X[1], table.X[2] = np.nan, 0
    summary = simulate(
        write(table, "p.h5ad"), tmp_path / "out.h5ad", like=[write(real_table(), "r.h5ad")], cells_per_profile=2,
        progress=False,
    )  # fmt: skip
    assert summary["profiles"] == 2 and summary["skipped"]["no measured gene is expressed"] == 2
    table.X[:] = np.nan
    with pytest.raises(UserError, match="none of the 4 linear profiles"):
        simulate(write(table, "p.h5ad"), tmp_path / "2.h5ad", like=[write(real_table(), "r.h5ad")])


@pytest.mark.parametrize("which", ["profiles", "real"])
def test_symbols_in_place_of_ensembl_ids_are_refused(write, tmp_path, which):
    tables = {"profiles": profile_table(), "real": real_table()}
    tables[which].var_names = [f"GENE{i}" for i in range(tables[which].n_vars)]
    with pytest.raises(UserError, match=rf"{which}.*Ensembl id"):
        simulate(
            write(tables["profiles"], "profiles.h5ad"), tmp_path / "out.h5ad", like=[write(tables["real"], "real.h5ad")]
        )


def test_real_files_without_counts_are_refused(write, tmp_path):
    real = real_table()
    real.X = real.X.log1p()
    with pytest.raises(UserError, match="real: X holds"):
        simulate(write(profile_table(), "p.h5ad"), tmp_path / "out.h5ad", like=[write(real, "real.h5ad")])


def test_an_unknown_study_is_named_with_near_ones(write, tmp_path):
    with pytest.raises(UserError, match="without_study='one c'.*Near names: one"):
        simulate(
            write(profile_table(), "p.h5ad"), tmp_path / "out.h5ad", like=[write(real_table(), "r.h5ad")],
            without_study=["one c"],
        )  # fmt: skip


def test_command_writes_once_and_reports_what_it_skipped(finished, tmp_path, capsys):
    folder = finished[0]
    arguments = ["simulate", folder / "profiles.h5ad", "--like", folder / "real.h5ad", "--out", tmp_path / "s.h5ad"]
    assert run_cli(*map(str, arguments), "--cells-per-profile", "2", "--quiet") == 0
    assert "skipped 1 profiles: scale 'log'" in capsys.readouterr().out
    assert run_cli(*map(str, arguments), "--quiet") == 2
    assert "exists. Remove it, or choose another path." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--out", "cells.csv"], ".h5ad", id="suffix"),
        pytest.param(["--outliers", "1.5"], "--outliers", id="share"),
        pytest.param([], "--like", id="no_real_cells"),
        pytest.param(["--only-study", "one", "--without-study", "one"], "both name 'one'", id="both"),
    ],
)
def test_command_refuses_wrong_options(finished, monkeypatch, tmp_path, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert run_cli("simulate", str(finished[0] / "profiles.h5ad"), *flags, "--quiet") == 2
    assert message in capsys.readouterr().err


def test_profiles_of_the_atlas_give_cells_of_their_types(tmp_path):
    profiles, blood = shared_path("atlas/profiles/profiles_permissive.h5ad"), shared_path("data/pbmc3k.h5ad")
    summary = simulate(
        profiles,
        tmp_path / "s.h5ad",
        like=[blood],
        only_study=["CPL_Pancreas_HCA"],
        cells_per_profile=3,
        progress=False,
    )
    adata = ad.read_h5ad(tmp_path / "s.h5ad")
    assert summary["profiles"] == 6 and summary["studies"]["HCA"]["datasets"] == ["CPL_Pancreas_HCA"]
    beta = adata[(adata.obs.cell_type == "type B pancreatic cell") & (adata.obs.simulated_kind == "cell")]
    assert beta.n_obs == 3 and (beta[:, "ENSG00000254647"].X.sum(axis=1) > 0).all()  # INS
