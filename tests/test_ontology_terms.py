"""Resolve labels to terms; definitions and life stages of terms."""

import re

import pytest

from cell2text.example import example_cells
from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.definitions import clean_first_sentence, lowercase_start, term_definition
from cell2text.ontology.life_stages import LIFE_STAGES, life_stage
from cell2text.ontology.terms import ancestors, label_index, ontology_parser, resolve


def terms(ontology, retired=False):
    entries = ontology_parser().cxg_schema.ontology(ontology)
    return {term: entry for term, entry in entries.items() if retired or not entry.get("deprecated")}


@pytest.mark.parametrize(
    ("field", "label", "term_id", "expected"),
    [
        pytest.param("cell_type", "B cell", "CL:0000236", ("B cell", "CL:0000236", "term_id"), id="id"),
        pytest.param("cell_type", "b-lymphozyt", "CL:0000236", ("B cell", "CL:0000236", "term_id"), id="id_takes_precedence"),
        pytest.param("cell_type", "B CELL", None, ("B cell", "CL:0000236", "label"), id="label"),
        pytest.param("cell_type", "pancreatic alpha cell", None, ("pancreatic A cell", "CL:0000171", "synonym"), id="synonym"),
        pytest.param("cell_type", None, "CL:0000003", ("cell", "CL:0000000", "retired_id"), id="retired_id"),
        pytest.param("cell_type", "my cluster 7", "unknown", ("my cluster 7", None, "unresolved"), id="unresolved"),
        pytest.param("cell_type", "B cell", "CL:9999999", ("B cell", "CL:0000236", "label"), id="id_that_does_not_exist"),
        pytest.param("cell_type", "unknown", "unknown", (None, None, "unknown"), id="unknown"),
        pytest.param("cell_type", "nan", "", (None, None, "unknown"), id="nan"),
        pytest.param("disease", "normal", None, ("normal", "PATO:0000461", "label"), id="normal"),
        pytest.param("disease", "male", "PATO:0000384", ("male", None, "unresolved"), id="sex_is_not_a_disease"),
        pytest.param("disease", "influenza || COVID-19", "MONDO:0005812 || MONDO:0100096", ("influenza and COVID-19", "MONDO:0005812 || MONDO:0100096", "term_id"), id="two_diseases"),
        pytest.param("sex", "F", None, ("female", "PATO:0000383", "synonym"), id="short_sex"),
        pytest.param("cell_type", "T cells", None, ("T cell", "CL:0000084", "synonym"), id="plural"),
        pytest.param("disease", "Healthy", None, ("normal", "PATO:0000461", "synonym"), id="healthy"),
        pytest.param("development_stage", "9-year-old human stage", None, ("9-year-old stage", "HsapDv:0000103", "synonym"), id="former_label_without_id"),
        pytest.param("development_stage", "55-year-old human stage", "HsapDv:0000149", ("55-year-old stage", "HsapDv:0000149", "term_id"), id="former_label"),
    ],
)  # fmt: skip
def test_labels_are_resolved(field, label, term_id, expected):
    term = resolve(field, label, term_id)
    assert (term.label, term.term_id, term.route) == expected


COMMON_NAMES = {
    "beta cells": "type B pancreatic cell",
    "B_cell": "B cell",
    "t_cell": "T cell",
    "T-cells CD8+": "CD8-positive, alpha-beta T cell",
    "T cells, CD4+": "CD4-positive, alpha-beta T cell",
    "CD4T cell": "CD4-positive, alpha-beta T cell",
    "CD4-T cells": "CD4-positive, alpha-beta T cell",
    "CD8 T": "CD8-positive, alpha-beta T cell",
    "CD4+T_naive": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "Memory CD4 T": "CD4-positive, alpha-beta memory T cell",
    "CD8 TEM": "effector memory CD8-positive, alpha-beta T cell",
    "CD14+ Mono": "CD14-positive monocyte",
    "CD14 Mono": "CD14-positive monocyte",
    "Mono": "monocyte",
    "NK": "natural killer cell",
    "DC": "dendritic cell",
    "Endothelial": "endothelial cell",
    "Microglia": "microglial cell",
    "Rod bipolar": "rod bipolar cell",
    # Not narrower than the name: two subsets of monocytes have FCGR3A (CD16), NK T cells may be immature.
    "FCGR3A+ Mono": "monocyte",
    "CD16 Mono": "monocyte",
    "NKT cell": "alpha-beta T cell",
}


@pytest.mark.parametrize(("name", "label"), COMMON_NAMES.items())
def test_common_names_are_resolved_in_labels_of_metadata_only(name, label):
    term = resolve_label("cell_type", name)
    assert (term.label, term.route) == (label, "common_name") and term.term_id == resolve("cell_type", label).term_id
    assert resolve("cell_type", name).route == "unresolved"
    assert resolve_label("tissue", name).route == "unresolved"


@pytest.mark.parametrize(
    "name",
    ["alpha", "alpha_cell", "beta", "gamma", "delta cells", "B", "T", "EC", "HSC", "L cells", "stellate", "cluster 7",
     "NK, T cells", "T/NK", "T and NK cells", "NK T", "Microglia/Macrophage", "B cell 2", "T cells CD4 FOSB", "CD4-CD8",
     "CD4- T cells", "Rod", "Fibroblasts (activated)"],
)  # fmt: skip
def test_names_of_several_meanings_stay_unresolved(name):
    assert resolve_label("cell_type", name) == resolve("cell_type", name)
    assert resolve_label("cell_type", name).term_id is None


def test_names_of_the_cell_ontology_resolve_as_without_common_names():
    names = [name for index in label_index("cell_type") for name in index]
    assert len(names) > 6000
    for name in names:
        assert resolve_label("cell_type", name) == resolve("cell_type", name)


def test_common_names_among_published_labels_agree_with_the_terms_given_by_hand():
    obs = example_cells().obs
    pairs = set(zip(obs["author_cell_type"], obs["cell_type_ontology_term_id"], strict=True))
    found = {name: (resolve_label("cell_type", name), given) for name, given in pairs}
    common = {name: (term.term_id, given) for name, (term, given) in found.items() if term.route == "common_name"}
    assert len(common) >= 12
    finer = {name for name, (term, given) in common.items() if term not in ancestors(given)}
    assert finer == {"B_plasma", "CD4+T_naive"}  # given as lymphocytes in the data set


def test_every_definition_of_the_cell_ontology_is_one_clean_sentence():
    checked = 0
    for term, entry in terms("CL").items():
        text = term_definition(term)
        if text is None:
            assert not entry.get("description")
            continue
        checked += 1
        assert text.count("(") == text.count(")") and text.count("[") == text.count("]"), (term, text)
        assert not re.search(r"(?<![-\w])([a-z]+) \1(?![-\w])", text), (term, text)
        assert not re.search(r"(?:^A|(?<![\w-])a) (?!one|eu|uni)[aeio][a-z]{3}|\w An |_", text), (term, text)
        assert not re.match(rf"(an? |the )?{re.escape(entry['label'])} is an? ", text), (term, text)
        assert not re.search(r"PMID|https?:|et al\.|[.,;:\s]$|\b(e\.g|i\.e|vs)$", text), (term, text)
    assert checked > 3000


def test_the_first_sentence_ends_before_the_next_one():
    assert clean_first_sentence("Lacks CD8, e.g. in blood. It grows.") == "Lacks CD8, e.g. in blood"
    assert clean_first_sentence("One (of two. Or three).  Two.") == "One (of two. Or three)"
    assert clean_first_sentence("A cell of C. elegans. it moves.") == "A cell of C. elegans"
    assert clean_first_sentence("A cell that that moves (Meier et al., 2018). More.") == "A cell that moves"


def test_definitions_start_in_lower_case_except_for_names():
    assert lowercase_start("Epithelial cell of a duct") == "epithelial cell of a duct"
    assert lowercase_start("CD4-positive cell") == "CD4-positive cell"
    assert lowercase_start("A(n) epithelial cell") == "an epithelial cell"
    assert lowercase_start("Undifferentiated; mitotic stem cell") == "undifferentiated; mitotic stem cell"


def test_definitions_do_not_repeat_the_label():
    assert term_definition("CL:0000542").startswith("a leukocyte commonly found")  # "A lymphocyte is a leukocyte ..."
    assert term_definition("CL:0000171").startswith("a type A enteroendocrine cell")
    assert term_definition("CL:0000003") is None  # retired


def test_every_example_cell_type_has_a_definition():
    assert all(term_definition(term) for term in example_cells().obs["cell_type_ontology_term_id"].unique())


def expected_stage(label: str) -> str | None:
    """Return the stage that the words of an HsapDv label imply, without the ontology's graph."""
    years = re.match(r"(\d+)-year-old", label)
    if years:
        age = int(years[1])
        return "childhood" if age < 15 else "adolescence" if age < 20 else "adulthood" if age < 60 else "late adulthood"
    months = re.match(r"(\d+)-month-old", label)
    if months:
        return "infancy" if int(months[1]) < 12 else "childhood"
    decade = re.match(r"(third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh) decade", label)
    if decade:
        return "adulthood" if decade[1] in ("third", "fourth", "fifth", "sixth") else "late adulthood"
    if re.search(r"post-fertilization|LMP month|^fetal", label):
        return "the fetal stage of prenatal development"
    if re.search(r"Carnegie|embryonic|cleavage|morula|blastula|gastrula|neurula|organogenesis", label):
        return "the embryonic stage of prenatal development"
    words = {
        "prenatal": "prenatal development", "newborn": "infancy", "infant": "infancy", "nursing": "infancy",
        "under-1": "infancy", "pediatric": "childhood", "child": "childhood", "juvenile": "childhood",
        "first decade": "childhood", "adolescent": "adolescence", "15-19": "adolescence", "late adult": "late adulthood",
        "aged": "late adulthood", "60-79": "late adulthood", "65-79": "late adulthood", "80 year": "late adulthood",
        "90 year": "late adulthood", "centenarian": "late adulthood", "25-44": "adulthood", "middle aged": "adulthood",
        "adult": "adulthood", "mature": "adulthood",
    }  # fmt: skip
    found = [stage for word, stage in words.items() if re.search(rf"\b{word}", label)]
    if "middle aged" in label:
        return "adulthood"
    return found[0] if found else None


WITHOUT_STAGE = {"life cycle", "life cycle stage", "immature stage", "second decade stage", "postnatal stage"}


def test_every_term_of_hsapdv_has_the_life_stage_of_its_label():
    entries = terms("HsapDv", retired=True)
    assert len(entries) > 250
    for term, entry in entries.items():
        if entry["label"] in WITHOUT_STAGE:
            assert life_stage(term) is None, term
        else:
            assert life_stage(term) == expected_stage(entry["label"]), (term, entry["label"])
            assert life_stage(term) in LIFE_STAGES


@pytest.mark.parametrize(
    ("term", "stage"),
    [
        ("HsapDv:0000103", "childhood"),  # 9 years: the published system's text said embryonic
        ("HsapDv:0000119", "adulthood"),  # 25 years
        ("HsapDv:0000052", "the fetal stage of prenatal development"),  # 15th week post-fertilisation
        (None, None),
    ],
)
def test_life_stages_of_selected_terms(term, stage):
    assert life_stage(term) == stage
