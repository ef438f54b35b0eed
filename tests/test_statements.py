"""From probabilities of cell types to what a text states, and calibration of the probabilities."""

import pytest
import torch

from calibration_cell2text import calibrate_named, calibrate_types, check_calibration, highest_probability
from concepts_cell2text import ConceptNames
from configuration_cell2text import Cell2TextConfig
from correction_cell2text import StatedType, correct_comparison
from generation_cell2text import CellTextGenerator
from statements_cell2text import (
    SUBTYPE_PROBABILITIES,
    CellStatements,
    StatementEncoder,
    TypeHierarchy,
)

from .tiny import make_model


TYPES = {
    "cell": [], "leukocyte": ["cell"], "lymphocyte": ["leukocyte"], "T cell": ["lymphocyte"], "CD4 T cell": ["T cell"],
    "CD8 T cell": ["T cell"], "B cell": ["lymphocyte"], "monocyte": ["leukocyte"],
}  # fmt: skip
ORDER = sorted(TYPES)
PROFILES = ["ambient RNA", "no cell", "one cell", "two cells"]
NAMES = ConceptNames(
    multiclass={"profile": PROFILES}, multilabel={"pathways": ["A", "B", "C"]}, hierarchical={"cell_type": TYPES}
)


def probabilities(**masses) -> torch.Tensor:
    """Return the probability of each type, given masses by type."""
    own = torch.tensor([[masses.get(name.replace(" ", "_"), 0.0) for name in ORDER]])
    return own @ NAMES.ancestors("cell_type").float().T


def named(decision) -> tuple:
    names = [*ORDER, None]
    return names[int(decision.named[0])], names[int(decision.subtype[0])]


@pytest.mark.parametrize(
    ("masses", "expected"),
    [
        ({"CD8_T_cell": 0.9, "B_cell": 0.1}, ("CD8 T cell", None)),
        ({"CD8_T_cell": 0.6, "CD4_T_cell": 0.3, "B_cell": 0.1}, ("T cell", "CD8 T cell")),
        ({"T_cell": 0.75, "CD4_T_cell": 0.15, "monocyte": 0.1}, ("T cell", None)),  # a subtype of 0.15 is not worth it
        ({"T_cell": 0.5, "B_cell": 0.4, "monocyte": 0.1}, ("lymphocyte", "T cell")),
        ({"T_cell": 0.4, "monocyte": 0.5, "cell": 0.1}, ("leukocyte", "monocyte")),
        ({"T_cell": 0.3, "monocyte": 0.3, "cell": 0.4}, (None, None)),
        ({"cell": 1.0}, (None, None)),
    ],
)
def test_the_deepest_type_that_is_probable_enough_is_named(masses, expected):
    hierarchy = TypeHierarchy(NAMES, "cell_type", ["cell"])
    assert named(hierarchy.decide(probabilities(**masses), 0.7)) == expected


def test_candidates_are_below_the_named_type_or_anything_for_a_cell_without_one():
    hierarchy = TypeHierarchy(NAMES, "cell_type", ["cell"])
    values = probabilities(CD8_T_cell=0.5, CD4_T_cell=0.3, monocyte=0.2)
    [found] = hierarchy.candidates(values, torch.tensor([ORDER.index("T cell")]))
    assert [(name, round(value, 2)) for name, value in found] == [("CD8 T cell", 0.5), ("CD4 T cell", 0.3)]
    [found] = hierarchy.candidates(values, torch.tensor([-1]))
    assert [name for name, _ in found] == ["CD8 T cell", "CD4 T cell", "monocyte"]


def test_a_statement_is_crisp():
    """One column for each of named type, subtype and its probability; the two leading pathways in order."""
    encoder = StatementEncoder(NAMES, 0.7, ["cell"])
    types = probabilities(CD8_T_cell=0.62, CD4_T_cell=0.2, B_cell=0.18)[0]
    concepts = torch.cat([types, torch.tensor([0.3, 0.9, 0.2]), torch.tensor([0.1, 0.1, 0.7, 0.1])])
    [row] = encoder(concepts[None]).tolist()
    assert len(row) == encoder.n_columns == 2 * len(TYPES) + len(SUBTYPE_PROBABILITIES) + 3 + 4
    named, subtype, rest = row[: len(TYPES)], row[len(TYPES) : 2 * len(TYPES)], row[2 * len(TYPES) :]
    assert [name for name, value in zip(ORDER, named) if value] == ["T cell"]
    assert [name for name, value in zip(ORDER, subtype) if value] == ["CD8 T cell"]
    assert [text for text, value in zip(SUBTYPE_PROBABILITIES, rest) if value] == ["0.62"]
    assert rest[len(SUBTYPE_PROBABILITIES) :] == [0.5, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("profile", "masses", "text"),
    [
        ("one cell", {"T_cell": 1.0}, None),
        ("one cell", {"cell": 1.0}, "resembles no cell type"),
        ("no cell", {"T_cell": 1.0}, "resembles no cell type"),
        ("ambient RNA", {"T_cell": 1.0}, "ambient RNA rather than one cell"),
        ("two cells", {"T_cell": 0.6, "monocyte": 0.4}, "combines two cells, most likely a T cell and a monocyte."),
        ("two cells", {"leukocyte": 0.3, "T_cell": 0.4, "monocyte": 0.3}, "most likely a T cell and a monocyte."),
    ],
)
def test_cells_without_ground_for_a_type_are_declined(profile, masses, text):
    config = Cell2TextConfig(cell_concepts=NAMES.to_dict(), uninformative_types=["cell"])
    kinds = torch.tensor([float(name == profile) for name in PROFILES])
    concepts = torch.cat([probabilities(**masses)[0], torch.zeros(3), kinds])
    [(found,)] = CellStatements(config)(concepts.view(1, 1, -1))
    if text is None:
        assert found == StatedType("T cell", pathways=())
    else:
        assert found.startswith("No cell type is assigned: ") and text in found


def test_models_without_a_hierarchy_never_decline():
    assert CellStatements(Cell2TextConfig())(torch.empty(2, 1, 0)) == [(), ()]


CURVE = {"slope": 0.8, "intercept": -0.2, "genes": 0.5, "one_cell": 0.3, "depth": -0.4}


def test_calibration_keeps_the_order_of_types_and_lowers_poor_evidence():
    values = probabilities(CD8_T_cell=0.6, CD4_T_cell=0.3, monocyte=0.1).expand(3, -1)
    depth = TypeHierarchy(NAMES).depth
    n_genes, one_cell = torch.tensor([2000, 50, 2000]), torch.tensor([0.99, 0.99, 0.1])
    found = calibrate_types(values, n_genes, depth, CURVE, one_cell)
    above = NAMES.ancestors("cell_type")
    for upper, lower in above.nonzero().tolist():
        assert (found[:, lower] <= found[:, upper] + 1e-6).all()
    assert (found[1:] < found[0]).all()
    highest = highest_probability(torch.tensor([2000, 50, 2000]), CURVE | {"ceiling": [[100, 0.5], [1000, 1.0]]})
    assert highest.tolist() == [1, 0.5, 1]


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_named_type_has_a_curve_of_its_own(slope):
    """It stays the named type, with types above it at least and types below it at most as probable."""
    curve = {"named_slope": slope, "named_intercept": 0.9}
    hierarchy = TypeHierarchy(NAMES, "cell_type", ["cell"])
    values = probabilities(CD8_T_cell=0.5, CD4_T_cell=0.2, monocyte=0.3)
    found = hierarchy.with_named(values, 0.6, lambda named: calibrate_named(named, curve))
    column = ORDER.index("T cell")
    assert torch.equal(found[:, column], calibrate_named(values[:, column], curve)) and found[0, column] > 0.7
    assert named(hierarchy.decide(found, 0.6)) == named(hierarchy.decide(values, 0.6)) == ("T cell", "CD8 T cell")
    for upper, lower in NAMES.ancestors("cell_type").nonzero().tolist():
        assert found[0, lower] <= found[0, upper] + 1e-6
    nothing = probabilities(cell=1.0)
    assert torch.equal(hierarchy.with_named(nothing, 0.6, torch.zeros_like), nothing)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slope": 1.0},
        {"slope": -1.0, "intercept": 0.0},
        {"slope": 1.0, "intercept": 0.0, "depth": 0.1},
        {"slope": 1.0, "intercept": 0.0, "other": 0.1},
        {"slope": 1.0, "intercept": 0.0, "ceiling": [[100, 0.5], [10, 1.0]]},
        {"slope": 1.0, "intercept": 0.0, "ceiling": [[100, 1.5]]},
        {"slope": 1.0, "intercept": 0.0, "named_slope": 1.0},
        {"slope": 1.0, "intercept": 0.0, "named_slope": 1.0, "named_intercept": -1.0},
    ],
)
def test_calibrations_that_break_the_hierarchy_are_refused(wrong):
    with pytest.raises(ValueError, match="type_calibration"):
        check_calibration(wrong, 0.6)


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_thresholds_that_do_not_single_out_a_type_are_refused(threshold):
    with pytest.raises(ValueError, match="type_threshold"):
        Cell2TextConfig(type_threshold=threshold)


def test_a_model_with_a_hierarchy_states_declines_and_reloads(tiny_processor, tmp_path):
    """The probabilities are consistent along the hierarchy, also after loading; a declined cell gets its reason."""
    settings = {"type_calibration": CURVE, "uninformative_types": ["cell"]}
    model = make_model("concepts", processor=tiny_processor, cell_concepts=NAMES.to_dict(), **settings)
    batch = tiny_processor.pad_cells([[[5, 6, 7]], [[8, 9]]], return_tensors="pt")
    values = model.get_cell_concepts(**batch)["cell_type"]
    above = NAMES.ancestors("cell_type")
    assert all((values[..., lower] <= values[..., upper] + 1e-6).all() for upper, lower in above.nonzero().tolist())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.get_cell_concepts(**batch)["cell_type"], values)
    overrides = torch.full((2, 1, NAMES.n_concepts), float("nan"))
    overrides[0] = NAMES.encode(cell_type="B cell", profile="one cell")
    overrides[1] = NAMES.encode(cell_type="B cell", profile="ambient RNA")
    generated = CellTextGenerator(model, tiny_processor, max_new_tokens=4)([[[5, 6, 7]], [[8, 9]]], overrides.numpy())
    assert generated.texts[1] == "No cell type is assigned: the profile resembles ambient RNA rather than one cell."
    assert generated.texts[0] != generated.texts[1] and generated.confidence[0] > 0
    assert (generated.concepts["cell_type"][:, ORDER.index("B cell")] == 1).all()


TAIL = " It comes from a male donor. Its most active pathways are A and B."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This cell is a T cell: a lymphocyte." + TAIL, "This cell is a T cell: a lymphocyte. {subtype}" + TAIL),
        ("This cell is a T cell. It is most likely a B cell (0.61)." + TAIL, "This cell is a T cell. {subtype}" + TAIL),
        (
            "This cell is a T cell: a cell. It is most likely a CD8 T cell (0. It is most likely a CD8 T cell (0.7)."
            + TAIL,
            "This cell is a T cell: a cell. {subtype}" + TAIL,
        ),
        ("This cell is a T cell. It is most likely a CD8 T cell (0" + TAIL, "This cell is a T cell. {subtype}" + TAIL),
        ("This cell is a B cell: of B lineage." + TAIL, "This cell is a T cell. {subtype}" + TAIL),
        ("This cell is a T cell of some kind", "This cell is a T cell. {subtype}"),
        ("B cell", "T cell"),
        ("This cell's most active pathways are A and B.", "This cell's most active pathways are A and B."),
    ],
)
def test_slips_of_the_language_model_are_corrected(text, expected):
    """The sentences on the type say what the probabilities say; the others stay as they are."""
    stated = StatedType("T cell", "CD8 T cell", 0.62)
    subtype = "It is most likely a CD8 T cell (0.62)."
    assert stated.correct(text, set(TYPES)) == expected.format(subtype=subtype)
    assert "most likely" not in StatedType("T cell").correct(text, set(TYPES))


@pytest.mark.parametrize(
    ("sex", "text", "expected"),
    [
        ("female", TAIL, " It comes from a female donor. Its most active pathways are A and B."),
        ("unknown", TAIL, " Its most active pathways are A and B."),
        (None, TAIL, TAIL),
        ("male", " Its most active pathway is A.", " It comes from a male donor. Its most active pathway is A."),
        ("male", "", ""),
        (
            "female",
            " It comes from the blood of a healthy male donor.",
            " It comes from the blood of a healthy female donor.",
        ),
        (
            "unknown",
            " It comes from the blood of a healthy male donor.",
            " It comes from the blood of a healthy donor.",
        ),
    ],
)
def test_texts_state_the_sex_of_the_statement(sex, text, expected):
    stated = StatedType("T cell", sex=sex)
    assert stated.correct("This cell is a T cell." + text, set()) == "This cell is a T cell." + expected


@pytest.mark.parametrize(
    ("pathways", "text", "expected"),
    [
        (("HALLMARK_HYPOXIA", "a"), TAIL, TAIL.replace("A and B", "hypoxia and a")),
        (("b",), TAIL, TAIL.replace("pathways are A and B", "pathway is b")),
        ((), TAIL, " It comes from a male donor."),
        (None, TAIL, TAIL),
        (("b",), " It comes from a male donor.", " It comes from a male donor."),
    ],
)
def test_texts_name_the_pathways_of_the_statement(pathways, text, expected):
    stated = StatedType("T cell", pathways=pathways)
    assert stated.correct("This cell is a T cell." + text, set()) == "This cell is a T cell." + expected


@pytest.mark.parametrize(("activities", "expected"), [([0.2, 0.9, 0.05], ("B", "A")), ([0.05, 0.02, 0.3], ("C",))])
def test_statements_hold_the_leading_pathways(activities, expected):
    config = Cell2TextConfig(cell_concepts=NAMES.to_dict(), uninformative_types=["cell"])
    one_cell = torch.tensor([float(name == "one cell") for name in PROFILES])
    concepts = torch.cat([probabilities(T_cell=1.0)[0], torch.tensor(activities), one_cell])
    [(found,)] = CellStatements(config)(concepts.view(1, 1, -1))
    assert found.pathways == expected


def test_comparisons_name_the_types_of_both_cells():
    wrong = "The first cell is a T cell and the second cell is a T cell. Both cells come from the blood."
    cd8, b_cell = StatedType("CD8-positive, alpha-beta T cell"), StatedType("B cell")
    right = "The first cell is a CD8-positive, alpha-beta T cell and the second cell is a B cell."
    assert correct_comparison(wrong, cd8, b_cell) == right + " Both cells come from the blood."
    assert correct_comparison(right, b_cell, b_cell) == "Both cells are of the type B cell."
    assert correct_comparison("Both cells come from the blood.", cd8, b_cell) == "Both cells come from the blood."
