"""Parse descriptions and free text into fields: what the writer writes is read back, missing fields are None."""

import random
import time
from functools import cache
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cell2text.evaluation.classification import label_claim
from cell2text.example import example_cells
from cell2text.language.fields import FIELDS, Claim, Declined, Fields
from cell2text.language.parsing import read_declined, read_fields
from cell2text.language.writing import describe_row
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.life_stages import LIFE_STAGES
from cell2text.ontology.terms import UNKNOWN_LABELS, ontology_parser
from cell2text.signatures.gene_sets import read_gmt
from declining_cell2text import (
    EMPTY_CELL_TEXT,
    FOREIGN_CELL_TEXT,
    REASONS,
    declined_text,
    is_description,
    too_few_genes_text,
)
from errors_cell2text import UserError

from .conftest import shared_path


SETS = (
    "HALLMARK_TNFA_SIGNALING_VIA_NFKB", "HALLMARK_ADIPOGENESIS", "HALLMARK_INTERFERON_ALPHA_RESPONSE",
    "HALLMARK_INTERFERON_GAMMA_RESPONSE", "HALLMARK_UV_RESPONSE_UP", "REACTOME_DNA_REPAIR_AND_CELL_CYCLE",
)  # fmt: skip

WORDS = (
    "cell", "of", "with", "type", "2", "CD8+", "β", "γδ", "alpha", "and", "in", "the", "L5/6", "IT", "non-small",
    "MHC-II", "'s",
)  # fmt: skip


@cache
def terms_of(ontology: str) -> list[tuple[str, str]]:
    """Ids and labels of the current terms of an ontology."""
    entries = ontology_parser().cxg_schema.ontology(ontology)
    return [
        (t, e["label"])
        for t, e in sorted(entries.items())
        if t.startswith(ontology) and e.get("label") and not e.get("deprecated")
    ]


word_lists = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", ", ", "-"])), min_size=1, max_size=5)
names = word_lists.map(lambda parts: "".join(word + link for word, link in parts).strip(" ,-"))
letters = st.text(
    st.characters(whitelist_categories=("Ll", "Lu", "Nd"), whitelist_characters=" ,-+/'()αβγ"), min_size=1, max_size=30
)
odd_labels = st.one_of(names, letters.map(lambda text: " ".join(text.split()))).filter(
    lambda name: (
        any(letter.isalnum() for letter in name) and name.lower() not in UNKNOWN_LABELS and not name.startswith("the ")
    )
)
optional_labels = st.none() | odd_labels
sexes, stages = st.sampled_from([None, "male", "female"]), st.sampled_from([None, *LIFE_STAGES])
pathway_lists = st.lists(st.sampled_from(SETS), max_size=4, unique=True)


def assert_read_back(row: dict) -> None:
    """Assert that parsing the description of a row returns the row's fields."""
    text = describe_row(row)
    fields = read_fields(text or "", SETS)
    for name in FIELDS:
        claim, value = getattr(fields, name), row.get(name)
        assert (claim is None) == (value is None), (name, claim, text)
        assert claim is None or label_claim(name, value, None).same_as(claim), (name, claim, text)
    assert fields.pathways == tuple(row.get("pathways") or ()), text
    named = row.get("cell_type") and row.get("likely_subtype")
    assert (fields.likely_subtype is None) == (not named) == (fields.likely_subtype_probability is None), text
    if named:
        assert label_claim("cell_type", row["likely_subtype"], None).same_as(fields.likely_subtype), text
        assert fields.likely_subtype_probability == float(row["likely_subtype_probability"])


@settings(max_examples=400, deadline=None, derandomize=True)  # the same examples in every run
@given(
    cell_type=optional_labels,
    definition=st.sampled_from([None, "a cell that is found in the lung of a donor, with 2 nuclei", "any α cell"]),
    tissue=optional_labels,
    disease=st.one_of(optional_labels, st.just("normal")),
    sex=sexes,
    life_stage=stages,
    pathways=pathway_lists,
    subtype=optional_labels,
)
@example(None, None, "0", "alpha cell", None, None, [], None)
@example(None, None, "TEENAGER", None, None, None, [], None)
@example("ADULT", None, None, None, None, None, [], None)
@example("neuron", None, None, None, None, None, [], "alpha retinal ganglion cell (Mmus)")
def test_odd_names_are_read_back(cell_type, definition, tissue, disease, sex, life_stage, pathways, subtype):
    assert_read_back(
        {
            "cell_type": cell_type, "cell_type_definition": definition, "tissue": tissue, "disease": disease,
            "sex": sex, "life_stage": life_stage, "pathways": pathways, "likely_subtype": subtype,
            "likely_subtype_probability": "0.62",
        }
    )  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), sex=sexes, life_stage=stages, pathways=pathway_lists, defined=st.booleans())
def test_terms_of_the_ontologies_are_read_back(data, sex, life_stage, pathways, defined):
    cell_type = data.draw(st.none() | st.sampled_from(terms_of("CL")))
    tissue = data.draw(st.sampled_from([None, *(label for _, label in terms_of("UBERON"))]) | odd_labels)
    disease = data.draw(st.sampled_from([None, "normal", *(label for _, label in terms_of("MONDO"))]))
    assert_read_back(
        {
            "cell_type": cell_type and cell_type[1],
            "cell_type_definition": term_definition(cell_type[0]) if cell_type and defined else None,
            "tissue": tissue, "disease": disease, "sex": sex, "life_stage": life_stage, "pathways": pathways,
            "likely_subtype": data.draw(st.none() | st.sampled_from([label for _, label in terms_of("CL")])),
            "likely_subtype_probability": data.draw(st.sampled_from(["0.05", "0.62", "0.79", "1.00"])),
        }
    )  # fmt: skip


def test_every_combination_of_donor_fields_is_read_back():
    diseases = (
        None,
        "normal",
        "COVID-19",
        "diabetes mellitus, insulin-resistant, with acanthosis nigricans",
        "unnamed",
    )
    for disease, sex, life_stage in product(diseases, (None, "male", "female"), (None, *LIFE_STAGES)):
        donor = {"disease": disease, "sex": sex, "life_stage": life_stage}
        assert_read_back(donor)
        assert_read_back({"cell_type": "B cell", "tissue": "lung", **donor})


FRAGMENTS = (
    "This cell is a ", "This cell is an ", "It comes from ", "This cell comes from ", "the lung", " of a ", "healthy ",
    "male ", "donor", " with ", "asthma", " in ", "adulthood", "Its most active pathways are ", "hypoxia", " and ",
    ", ", ". ", ": ", "; ", ".", "\n", " || ", "T cell", "B cell", "it is a ", "St. Louis encephalitis", "(", "]", "\\",
    "CL:0000236", "unknown", "\ud800", "It is most likely a ", " (0.62)", "No cell type is assigned: ",
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
@example("It is a T cell || B cell")
def test_any_text_is_parsed(text):
    fields = read_fields(text, SETS)
    assert set(fields.contradictions) <= set(FIELDS)


@pytest.mark.parametrize(
    "start",
    [
        "",
        "This cell is a ",
        "This cell is a B cell. It is most likely a ",
        "It comes from the ",
        "Its most active pathways are ",
    ],
)
@pytest.mark.parametrize(
    "repeated",
    [" ", "a. ", "a, ", "x of a ", "hypoxia and ", "it is a B cell. ", " (0.6", "\n \n", " in adulthood", " || "],
)
def test_time_is_linear_in_the_length_of_the_text(start, repeated):
    read_fields("This cell is a B cell. It is a T cell from the lung with asthma.", SETS)  # loads the ontologies

    def seconds(letters: int) -> float:
        text = f"{start}{repeated * (letters // len(repeated))}x"
        began = time.process_time()
        read_fields(text, SETS)
        return time.process_time() - began

    assert seconds(40_000) < 24 * max(seconds(5_000), 0.01)  # 8 times as long; quadratic time would be 64 times


def test_every_cell_type_is_read_back_from_its_description_and_many_tissues_and_diseases():
    draw = random.Random(0)
    tissues, diseases = terms_of("UBERON"), terms_of("MONDO")
    for cell_type in terms_of("CL"):
        tissue, disease = draw.choice(tissues), draw.choice([*diseases, ("PATO:0000461", "normal")])
        row = {
            "cell_type": cell_type[1], "cell_type_definition": term_definition(cell_type[0]), "tissue": tissue[1],
            "disease": disease[1], "sex": draw.choice(["male", "female", None]), "life_stage": draw.choice([*LIFE_STAGES, None]),
        }  # fmt: skip
        read = read_fields(describe_row(row))
        for said, (term, label) in ((read.cell_type, cell_type), (read.tissue, tissue), (read.disease, disease)):
            assert said == Claim(label, term) or said.term_id == term, (said, term, label)
        assert (read.sex and read.sex.label) == row["sex"]
        assert (read.life_stage and read.life_stage.label) == row["life_stage"]
        assert read.contradictions == () and read.pathways == ()


def test_the_published_wording_is_read_for_every_example_cell_type():
    kinds = example_cells().obs.drop_duplicates("cell_type")
    for label, term in zip(kinds["cell_type"], kinds["cell_type_ontology_term_id"]):
        text = f"This sample consists of a {label}, {term_definition(term)}. It originates from the lung of a normal male during adulthood."
        assert read_fields(text).cell_type.term_id == term, text


def test_every_hallmark_set_is_read_back():
    sets = tuple(read_gmt(shared_path("genesets") / "h.all.v7.0.symbols.gmt").names)
    for first, second in zip(sets, sets[1:] + sets[:1]):
        assert read_fields(describe_row({"pathways": [first, second]}), sets).pathways == (first, second)
        assert read_fields(describe_row({"cell_type": "B cell", "pathways": [first]}), sets).pathways == (first,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B cell", {"cell_type": "CL:0000236"}),
        ("This cell is a B cell from lung.", {"cell_type": "CL:0000236", "tissue": "UBERON:0002048"}),
        ("This cell is a T cell isolated from blood.", {"cell_type": "CL:0000084", "tissue": "UBERON:0000178"}),
        ("It comes from lung tissue, adult male with asthma.", {"tissue": "UBERON:0002048", "disease": "MONDO:0004979", "sex": "male", "life_stage": "adulthood"}),
        ("b lymphocytes.", {"cell_type": "CL:0000236"}),
        ("It seems to be a β-cell of pancreatic islet, I think.", {"cell_type": "CL:0000169", "tissue": "UBERON:0000006"}),
        ("The cell comes from a normal adult kidney; it looks like a podocyte.", {"cell_type": "CL:0000653", "tissue": "UBERON:0002113", "disease": "PATO:0000461", "life_stage": "adulthood"}),
        ("A T cell in lung tissue of a female patient with COVID-19.", {"cell_type": "CL:0000084", "tissue": "UBERON:0002048", "disease": "MONDO:0100096", "sex": "female"}),
        ("This cell is a macrophage: a phag", {"cell_type": "CL:0000235"}),
        ("This cell is a B cell. It was found in the lung of a man.", {"cell_type": "CL:0000236", "tissue": "UBERON:0002048", "sex": "male"}),
        ("It comes from the blood of a donor with St. Louis encephalitis.", {"tissue": "UBERON:0000178", "disease": "MONDO:0005969"}),
        ("It comes from the lung of a female patient with COVID-19.", {"tissue": "UBERON:0002048", "disease": "MONDO:0100096", "sex": "female"}),
        ("This cell is a B cell from the lung of a female donor with COVID-19.", {"cell_type": "CL:0000236", "tissue": "UBERON:0002048", "disease": "MONDO:0100096", "sex": "female"}),
        ("It comes from the lung of an adult male donor.", {"tissue": "UBERON:0002048", "sex": "male", "life_stage": "adulthood"}),
        ("It comes from the lung of a normal male donor during adulthood.", {"tissue": "UBERON:0002048", "disease": "PATO:0000461", "sex": "male", "life_stage": "adulthood"}),
        ("This cell is a macrophage, a mononuclear phagocyte.", {"cell_type": "CL:0000235"}),
        ("Cell type: T cell\nTissue: blood\nDisease: normal", {"cell_type": "CL:0000084", "tissue": "UBERON:0000178", "disease": "PATO:0000461"}),
        ('{"cell_type":"neuron","tissue":"cerebral cortex","disease":"normal"}', {"cell_type": "CL:0000540", "tissue": "UBERON:0000956", "disease": "PATO:0000461"}),
        ("Disease: none.", {}),
        ("This cell plays a role in immunity; it is a T cell of the blood.", {"cell_type": "CL:0000084", "tissue": "UBERON:0000178"}),
        ("This cell is not a B cell but a T cell.", {"cell_type": "CL:0000084"}),
        ("The cell is a T cell, not a natural killer cell.", {"cell_type": "CL:0000084"}),
        ("The donor does not have COVID-19 and is not healthy.", {}),
        ("I do not know.", {}),
        ("It is most likely a T cell (0.8).", {"cell_type": "CL:0000084"}),
        ("This cell is most likely a T cell (0.8), from the lung.", {"cell_type": "CL:0000084", "tissue": "UBERON:0002048"}),
        ("This cell is a T cell, probably CD8-positive.", {"cell_type": "CL:0000084"}),
        ("This cell is a T cell. It is most likely a memory T cell from the lung.", {"cell_type": "CL:0000084", "tissue": "UBERON:0002048"}),
        ("This cell is a T cell. It is most likely a memory T cell (0.62). It was found in the lung of a man.", {"cell_type": "CL:0000084", "tissue": "UBERON:0002048", "sex": "male"}),
        ("This cell is a T cell. It is most likely a CD8-positive, alph", {"cell_type": "CL:0000084"}),
        ("", {}),
        ("!!! ??? 123", {}),
    ],
)  # fmt: skip
def test_free_text_is_searched_for_labels_and_synonyms(text, expected):
    read = read_fields(text, SETS)
    found = {}
    for name in FIELDS:
        said = getattr(read, name)
        if said is not None:
            found[name] = said.label if name in ("sex", "life_stage") else said.term_id
    assert found == expected


def test_pathways_are_found_in_free_text_none_inside_a_longer_one():
    text = "It shows an interferon alpha response and TNF-alpha signaling via NF-kB."
    assert read_fields(text, SETS).pathways == (
        "HALLMARK_INTERFERON_ALPHA_RESPONSE",
        "HALLMARK_TNFA_SIGNALING_VIA_NFKB",
    )
    assert read_fields("Its most active pathways are adipogenesis and dancing.", SETS).pathways == (
        "HALLMARK_ADIPOGENESIS",
        "dancing",
    )


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("This cell is a B cell or a T cell. It comes from the lung.", ("cell_type",)),
        ("This cell is a B cell. It is a hepatocyte.", ("cell_type",)),
        ("This cell is a lymphocyte. It is a B cell.", ()),
        ("This cell is a B cell: a lymphocyte of B lineage that is capable of B cell mediated immunity.", ()),
        ("This cell is a T cell. It is most likely a CD8-positive, alpha-beta T cell (0.62).", ()),
        ("This cell is a T cell. It is most likely a hepatocyte (0.62).", ("cell_type",)),
        ("This cell is a T cell. It is most likely a hepatocyte.", ("cell_type",)),
        ("It comes from the lung of a male donor. It comes from the liver of a female donor.", ("tissue", "sex")),
        ("This cell comes from the lung of a healthy donor with COVID-19.", ("disease",)),
        ("This cell comes from a donor in infancy. It comes from a donor in late adulthood.", ("life_stage",)),
        ("", ()),
    ],
)  # fmt: skip
def test_two_claims_that_cannot_both_be_true_are_named(text, fields):
    assert read_fields(text).contradictions == fields


def test_a_claim_equals_another_by_term_or_by_words():
    assert Claim("B lymphocyte", "CL:0000236").same_as(Claim("B cell", "CL:0000236"))
    assert Claim("weird cell").same_as(Claim("Weird Cell")) and not Claim("weird cell").same_as(Claim("other"))
    assert not Claim("B cell", "CL:0000236").same_as(None)


def test_the_likely_subtype_is_read_beside_the_named_type():
    fields = read_fields("This cell is a T cell. It is most likely a CD8-positive, alpha-beta T cell (0.62).")
    assert fields.cell_type == Claim("T cell", "CL:0000084")
    assert fields.likely_subtype == Claim("CD8-positive, alpha-beta T cell", "CL:0000625")
    assert fields.likely_subtype_probability == 0.62


TWO_PROFILES = declined_text("two_profiles", ["T cell", "CD14-positive monocyte"])


def test_declined_texts_name_no_field():
    assert TWO_PROFILES == (
        "No cell type is assigned: the profile combines two cells, most likely a T cell and a CD14-positive monocyte."
    )
    for text in (TWO_PROFILES, *map(declined_text, REASONS), "No cell type is assigned: the lung of a man is ill."):
        assert read_fields(text) == Fields() and not is_description(text), text
    described = read_fields(f"{TWO_PROFILES} It comes from a female donor.")
    assert described.cell_type is None and described.sex.label == "female"


def test_reasons_and_candidates_of_declined_texts_are_read_back():
    assert read_declined(TWO_PROFILES) == Declined(
        "two_profiles", (Claim("T cell", "CL:0000084"), Claim("CD14-positive monocyte", "CL:0001054"))
    )
    for reason in REASONS:
        assert read_declined(declined_text(reason)) == Declined(reason)
    assert read_declined(too_few_genes_text(3, 20)) == Declined("too_few_genes")
    assert read_declined(EMPTY_CELL_TEXT) == Declined("no_genes")
    assert read_declined(FOREIGN_CELL_TEXT) == Declined("other_species") and not is_description(FOREIGN_CELL_TEXT)
    assert read_declined("No cell type is assigned: who knows.") == Declined("other")
    assert read_declined("This cell is a B cell.") is None and read_declined("") is None


def test_candidates_whose_names_hold_and_are_read_back():
    names = [label for _, label in terms_of("CL") if " and " in label][:20]
    for pair in pairwise(names):
        found = read_declined(declined_text("two_profiles", pair)).candidates
        assert tuple(claim.label for claim in found) == pair


@pytest.mark.parametrize(
    ("reason", "candidates"), [("tired", ()), ("ambient", ("T cell", "B cell")), ("two_profiles", ("T cell",))]
)
def test_wrong_reasons_and_candidates_are_errors(reason, candidates):
    with pytest.raises(UserError, match=reason):
        declined_text(reason, candidates)
