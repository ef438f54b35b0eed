"""Write descriptions and comparisons from metadata."""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cell2text.language.writing import compare_cells, describe_row, with_article
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.life_stages import LIFE_STAGES
from cell2text.ontology.terms import ontology_parser
from cell2text.signatures.gene_sets import read_gmt
from grammar_cell2text import pathway_words

from .conftest import shared_path


ALPHA = {
    "cell_type": "pancreatic A cell",
    "cell_type_definition": "a cell that secretes glucagon",
    "tissue": "pancreas",
    "disease": "normal",
    "sex": "male",
    "life_stage": "adulthood",
    "pathways": ["HALLMARK_HYPOXIA", "HALLMARK_TNFA_SIGNALING_VIA_NFKB"],
}
TYPE = "This cell is a pancreatic A cell: a cell that secretes glucagon."
PATHWAYS = "Its most active pathways are hypoxia and TNF-alpha signaling via NF-kB."


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, f"{TYPE} It comes from the pancreas of a healthy male donor in adulthood. {PATHWAYS}"),
        ({"disease": "type 2 diabetes mellitus"}, f"{TYPE} It comes from the pancreas of a male donor with type 2 diabetes mellitus in adulthood. {PATHWAYS}"),
        ({"sex": "unknown", "life_stage": None}, f"{TYPE} It comes from the pancreas of a healthy donor. {PATHWAYS}"),
        ({"sex": None, "disease": "unknown", "life_stage": None}, f"{TYPE} It comes from the pancreas. {PATHWAYS}"),
        ({"tissue": "unknown"}, f"{TYPE} It comes from a healthy male donor in adulthood. {PATHWAYS}"),
        ({"pathways": ["HALLMARK_HYPOXIA"], "cell_type_definition": None}, "This cell is a pancreatic A cell. It comes from the pancreas of a healthy male donor in adulthood. Its most active pathway is hypoxia."),
        ({"cell_type": "nan", "pathways": []}, "This cell comes from the pancreas of a healthy male donor in adulthood."),
        ({name: None for name in ALPHA if name != "pathways"}, "This cell's most active pathways are hypoxia and TNF-alpha signaling via NF-kB."),
        ({"life_stage": "the fetal stage of prenatal development", "pathways": None}, f"{TYPE} It comes from the pancreas of a healthy male donor in the fetal stage of prenatal development."),
        (dict.fromkeys(ALPHA), None),
        ({"likely_subtype": "L6 neuron", "likely_subtype_probability": "0.62"}, f"{TYPE} It is most likely an L6 neuron (0.62). It comes from the pancreas of a healthy male donor in adulthood. {PATHWAYS}"),
        ({"likely_subtype": "L6 neuron", "likely_subtype_probability": None}, f"{TYPE} It comes from the pancreas of a healthy male donor in adulthood. {PATHWAYS}"),
        ({"likely_subtype": None, "likely_subtype_probability": "0.62", "pathways": []}, f"{TYPE} It comes from the pancreas of a healthy male donor in adulthood."),
        ({"cell_type": None, "likely_subtype": "L6 neuron", "likely_subtype_probability": "0.62", "pathways": []}, "This cell comes from the pancreas of a healthy male donor in adulthood."),
        ({**dict.fromkeys(ALPHA), "cell_type": "neuron", "likely_subtype": "L6 neuron", "likely_subtype_probability": "0.62", "sex": "female"}, "This cell is a neuron. It is most likely an L6 neuron (0.62). It comes from a female donor."),
    ],
)  # fmt: skip
def test_unknown_fields_are_omitted(changes, text):
    assert describe_row({**ALPHA, **changes}) == text


def test_missing_columns_are_unknown_fields():
    assert describe_row({"tissue": "lung"}) == "This cell comes from the lung." and describe_row({}) is None


def test_texts_that_models_were_trained_on_stay_the_same():
    """Byte for byte: a change of wording would make trained models and the parser disagree."""
    examples = json.loads((Path(__file__).parent / "data" / "written_texts.json").read_text(encoding="utf-8"))
    rows = [example["row"] for example in examples["descriptions"]]
    assert [describe_row(row) for row in rows] == [example["description"] for example in examples["descriptions"]]
    for example in examples["comparisons"]:
        assert compare_cells(rows[example["first"]], rows[example["second"]]) == example["comparison"]


DONOR = r"an? (healthy )?((fe)?male )?donor( with [^.]+?)?( in [a-z ]+)?"
GRAMMAR = re.compile(
    rf"^(This cell is an? [^.:]+(: [^:]+)?\.)?( It is most likely an? [^.:]+ \(0\.62\)\.)?( ?(This cell|It) comes from ((the )?[^.]+?( of {DONOR})?|{DONOR})\.)?"
    r"( ?(This cell's|Its) most active (pathway is|pathways are) [^.]+\.)?$"
)


def real_labels(ontology, n):
    entries = ontology_parser().cxg_schema.ontology(ontology)
    labels = [
        (t, e["label"])
        for t, e in entries.items()
        if not e.get("deprecated") and e.get("label") and "." not in e["label"] and ":" not in e["label"]
    ]
    return labels[:: max(1, len(labels) // n)]


def test_every_combination_of_missing_fields_is_correct_english():
    """Every subset of fields, with real labels: the sentences have the grammar, no gap, no doubled word."""
    types, tissues, diseases = (real_labels(name, 40) for name in ("CL", "UBERON", "MONDO"))
    rng = np.random.default_rng(0)
    sets = [f"HALLMARK_{name}" for name in ("HYPOXIA", "MYC_TARGETS_V1", "UV_RESPONSE_DN")]
    for present in product([True, False], repeat=8):
        for _ in range(2):
            term, cell_type = types[rng.integers(len(types))]
            row = {
                "cell_type": cell_type,
                "cell_type_definition": term_definition(term),
                "likely_subtype": types[rng.integers(len(types))][1],
                "tissue": tissues[rng.integers(len(tissues))][1],
                "disease": "normal" if rng.random() < 0.5 else diseases[rng.integers(len(diseases))][1],
                "sex": str(rng.choice(["male", "female"])),
                "life_stage": str(rng.choice(list(LIFE_STAGES))),
                "pathways": list(rng.choice(sets, size=rng.integers(1, 3), replace=False)),
            }
            row = {name: value for (name, value), there in zip(row.items(), present) if there}
            text = describe_row({**row, "likely_subtype_probability": "0.62"})
            if not set(row) - {"cell_type_definition", "likely_subtype"}:
                assert text is None
                continue
            if "cell_type_definition" not in row or ":" not in row["cell_type_definition"]:
                assert GRAMMAR.match(text), text
            assert "  " not in text and " ." not in text and ".." not in text and text.endswith("."), text
            assert not re.search(r"\b(a|an|the|of|with|in|from|is|it|this) \1\b", text, re.IGNORECASE), text
            for name in ("cell_type", "tissue", "sex", "life_stage"):
                assert name not in row or row[name] in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("amacrine cell", "an"), ("B cell", "a"), ("OFF-bipolar cell", "an"), ("unipolar brush cell", "a"), ("NK cell", "an"),
        ("L2/3 intratelencephalic neuron", "an"), ("MAIT cell", "a"), ("eukaryotic cell", "a"), ("umbrella cell", "an"),
        ("urothelial cell", "a"), ("T cell", "a"), ("Hofbauer cell", "a"), ("M cell of gut", "an"), ("endothelial cell", "an"),
    ],
)  # fmt: skip
def test_articles(name, expected):
    assert with_article(name) == f"{expected} {name}"


def test_pathway_names_are_written_in_words_and_stay_distinct():
    names = read_gmt(shared_path("genesets/h.all.v7.0.symbols.gmt")).names
    words = [pathway_words(name) for name in names]
    assert len(set(words)) == 50 and not any("_" in text or "HALLMARK" in text for text in words)
    assert pathway_words("HALLMARK_IL6_JAK_STAT3_SIGNALING") == "IL-6 JAK STAT3 signaling"
    assert pathway_words("HALLMARK_MYC_TARGETS_V2") == "MYC targets (set 2)"


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({}, "Both cells are of the type pancreatic A cell. Both cells come from the pancreas. Both cells come from healthy donors."),
        ({"cell_type": "B cell", "tissue": "blood", "disease": "asthma"}, "The first cell is a pancreatic A cell and the second cell is a B cell. The first cell comes from the pancreas and the second cell from the blood. The first cell comes from a healthy donor and the second cell from a donor with asthma."),
        ({"tissue": None, "disease": None}, "Both cells are of the type pancreatic A cell."),
        ({"cell_type": None}, None),
    ],
)  # fmt: skip
def test_comparisons_use_the_fields_known_of_both_cells(second, text):
    assert compare_cells(ALPHA, {**ALPHA, **second}) == text
