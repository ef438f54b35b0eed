"""Multiple-choice questions of benchmarks: how files are read, how the model chooses, and how choices are scored."""

import json
from pathlib import Path

import numpy as np
import pytest

import cell2text
from cell2text.choices.answering import NO_CANDIDATES, NO_CELL, NO_TASK, NO_TYPES, TOO_FEW_GENES, ChoiceAnswerer
from cell2text.choices.expression_order import rank_by_expression
from cell2text.choices.question import CELL_TYPE, DRUG_RESPONSE, GENERATION, PERTURBATION, ChoiceQuestion, answer_in
from cell2text.choices.reading import read_questions
from cell2text.choices.run import evaluate_choices
from cell2text.choices.scores import score_choices
from cell2text.choices.templates import LabelledCells, questions_from_templates
from cell2text.choices.wording import candidates_in, genes_in
from cell2text.errors import UserError

from .conftest import run_cli


GENES = (
    "INS IAPP PCSK1 G6PC2 DLK1 ADCYAP1 HADH MAFA NPTX2 SCGN CPE TTR CHGA SCG5 PCSK1N SCG2 SCG3 GNAS PCSK2 SLC30A8 "
    "ABCC8 UCN3 CHGB"
)
TYPES = ("T cell", "pancreatic beta cell", "CD4-positive, alpha-beta T cell")
CELLVERSE = (
    "Which of these {cell_types} is the cell with these {gene_names}? Reply with 'Final Answer: Prediction'.\n"
    "{gene_names}: %s\n{cell_types}: %s."
)
DRUG = (
    "Predict how this cell responds to the drug Erlotinib: [resistant, sensitive]. Reply with 'Final Answer: resistant' "
    "or 'Final Answer: sensitive'.\n{gene_names}: %s"
)
EXAMPLES = Path(__file__).parent / "data" / "cellverse_questions.json"
PERTURBED = "Does perturbing HARS change the expression of SAMD9? Reply 'Final Answer: Yes' or 'Final Answer: No'."


def chat(question: str, answer: str, **keys) -> dict:
    turns = [("system", "You are an expert."), ("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns], **keys}


def beta_question(answer="pancreatic beta cell") -> dict:
    return chat(CELLVERSE % (GENES, ", ".join(map(repr, TYPES))), answer)


@pytest.fixture(scope="module")
def loaded():
    return cell2text.load(device="cpu")


@pytest.fixture(scope="module")
def answerer(loaded):
    return ChoiceAnswerer(*loaded)


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="questions.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def question(**changes) -> ChoiceQuestion:
    values = {"question_id": "1", "kind": CELL_TYPE, "candidates": TYPES, "answer": TYPES[1], "genes": GENES.split()}
    return ChoiceQuestion(**{**values, "genes": tuple(values["genes"]), **changes})


def test_cellverse_questions_are_read_with_their_kind(write):
    rows = [beta_question(), chat(DRUG % GENES, "resistant"), chat(PERTURBED, "No")]
    beta, drug, perturbed = read_questions(write(rows))
    assert (beta.kind, beta.candidates, beta.answer) == (CELL_TYPE, TYPES, "pancreatic beta cell")
    assert beta.genes == drug.genes == tuple(GENES.split())
    assert (drug.kind, drug.candidates, drug.answer) == (DRUG_RESPONSE, ("resistant", "sensitive"), "resistant")
    assert (perturbed.kind, perturbed.candidates, perturbed.genes) == (PERTURBATION, ("Yes", "No"), ())


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(beta_question("Its INS is high. Final Answer: pancreatic beta cell."), id="answer_with_reasons"),
        pytest.param(
            {"conversations": [{"from": "human", "value": CELLVERSE % (GENES, str(list(TYPES))[1:-1])},
                               {"from": "gpt", "value": TYPES[1]}]}, id="from_and_value",
        ),
        pytest.param({"question": "Which cell type?", "options": TYPES, "genes": GENES, "answer": "B"}, id="letter"),
        pytest.param(
            {"question": f"Name the cell type. Genes: {GENES}.\nA) {TYPES[0]}\nB) {TYPES[1]}\nC) {TYPES[2]}",
             "answer": TYPES[1]}, id="lettered_options",
        ),
        pytest.param(
            {"instruction": f"Which cell type is <CELL>{GENES}</CELL>? The options are ({', '.join(TYPES)}).",
             "response": "The cell is a pancreatic beta cell, as its genes show."}, id="instruction_and_response",
        ),
        pytest.param(
            {"prompt": "Annotate this cell.", "choices": dict(zip("ABC", TYPES)), "gene_list": GENES.split(),
             "ground_truth": TYPES[1]}, id="choices_by_letter",
        ),
    ],
)  # fmt: skip
def test_other_forms_of_a_question_are_read_alike(write, row):
    (read,) = read_questions(write(json.dumps(row) + "\n", "questions.jsonl"))
    assert (read.candidates, read.answer, read.genes) == (TYPES, TYPES[1], tuple(GENES.split()))
    assert read.kind == CELL_TYPE


def test_genes_and_candidates_without_markers():
    assert genes_in("Top genes: ALB, APOA1, TTR, FGB, APOC3. What is it?") == ("ALB", "APOA1", "TTR", "FGB", "APOC3")
    assert genes_in("No genes here at all, only words.") == ()
    assert candidates_in("Choose from: hepatocyte, B cell or T cell.") == ("hepatocyte", "B cell", "T cell")
    assert candidates_in("What is it?") == ()


def test_an_answer_is_read_only_if_it_is_clear():
    assert answer_in("CD4-positive, alpha-beta T cell", TYPES) == TYPES[2]
    assert answer_in("It may be a T cell or a pancreatic beta cell.", TYPES) is None
    assert answer_in("neuron", TYPES) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no list of questions"),
        ('[{"question": "Which type?"}]', "question 1 has no answer"),
        ('[{"answer": "T cell"}]', "question 1 has no text"),
        ("{not json", "line 1, is not JSON"),
        ('[{"question": "a", "answer": "b", "id": 1}, {"question": "a", "answer": "b", "id": 1}]', "more than once"),
        ('[{"instruction": "What is {input}?", "response": "{output}"}]', "Pass the cells to ask about"),
    ],
)
def test_files_without_questions_are_refused(write, content, message):
    with pytest.raises(UserError, match=message):
        read_questions(write(content))


def test_the_model_chooses_by_the_probability_of_each_candidate(answerer):
    found, reversed_order = answerer([question(), question(candidates=TYPES[::-1])])
    assert found.choice == reversed_order.choice == "pancreatic beta cell" and found.is_right
    assert found.probabilities == pytest.approx(reversed_order.probabilities[::-1])
    assert np.argmax(found.probabilities) == 1 and 0 < found.probability <= 1


def test_one_candidate_is_chosen_even_if_none_is_probable(answerer):
    (found,) = answerer([question(candidates=("neuron", "T cell"), answer="neuron")])
    assert found.choice in ("neuron", "T cell") and max(found.probabilities) < 0.5


def test_questions_outside_the_model_get_a_reason_and_no_choice(answerer):
    asked = {
        NO_TASK: question(kind=DRUG_RESPONSE, candidates=("resistant", "sensitive")),
        NO_CELL: question(genes=()),
        NO_CANDIDATES: question(candidates=()),
        NO_TYPES: question(candidates=("type one", "type two")),
        TOO_FEW_GENES: question(genes=("INS", "GCG")),
    }
    found = answerer([*asked.values(), question()])
    assert [one.reason for one in found] == [*asked, None]
    assert all(one.choice is None and not one.is_right for one in found[:-1])


def test_short_and_numbered_names_are_mapped(answerer):
    names = ("B", "oligodendrocyte A", "oligodendrocyte C", "type one")
    assert [answerer.map_label(name).route for name in names] == ["synonym", "broader", "broader", "text"]
    assert answerer.map_label("B").types == ("B cell",) and answerer.map_label("B").label == "B"


def test_upper_bounds_leave_out_the_candidates_below_the_same_type(answerer):
    types = answerer.types
    naive, both = "naive thymus-derived CD4-positive, alpha-beta T cell", np.zeros((1, len(types.names)))
    for name, value in {"CD4-positive, alpha-beta T cell": 0.9, "effector T cell": 0.8, naive: 0.6}.items():
        both[0, types.names.index(name)] = value
    mapped = [answerer.map_label(name) for name in ("effector CD4-positive, alpha-beta T cell", naive)]
    values = [float(types.probability(one, both)[0]) for one in mapped]
    assert values == [0.8, 0.6]
    assert answerer._with_upper_bounds(mapped, values, both) == pytest.approx([0.3, 0.6])


def test_genes_ordered_by_counts_are_ranked_relative_to_their_medians(loaded):
    _, processor = loaded
    vocabulary = processor.gene_vocabulary
    genes = ["MALAT1", "RPL13", "RPS27", "CD3D", "TRAC"]
    (cell,) = rank_by_expression([genes], processor)
    (unchanged,) = rank_by_expression([genes], processor, gene_order="relative")
    names = [
        [vocabulary.symbols[token] for token in tokens if vocabulary.symbols[token]] for tokens in (cell, unchanged)
    ]
    assert names[1] == genes and sorted(names[0]) == sorted(genes)
    assert names[0].index("TRAC") < names[0].index("RPL13")


def test_unanswered_questions_count_as_wrong(answerer):
    answers = answerer([question(), question(), question(kind=GENERATION, genes=(), candidates=())])
    scores = score_choices(answers, n_resamples=50)
    assert scores["total"]["accuracy"] == pytest.approx(2 / 3) and scores["total"]["accuracy_answered"] == 1
    assert scores["kinds"]["generation"]["accuracy"] == 0 and scores["kinds"]["generation"]["answered"] == 0
    assert scores["mean_over_kinds"] == 0.5
    assert scores["unanswered"] == {GENERATION: {NO_TASK: 1}}
    assert scores["kinds"]["cell_type"]["chance"] == pytest.approx(1 / 3)


def test_the_example_questions_are_answered_except_for_other_kinds(loaded):
    metrics = evaluate_choices(EXAMPLES, model=loaded, n_resamples=0)  # the answers of the other kinds are arbitrary
    assert {kind: found["answered"] for kind, found in metrics["kinds"].items()} == {
        CELL_TYPE: 4, DRUG_RESPONSE: 0, PERTURBATION: 0,
    }  # fmt: skip
    assert metrics["kinds"][CELL_TYPE]["accuracy"] >= 0.75
    assert metrics["input"]["median_genes"] == 150 and metrics["input"]["answer_is_no_candidate"] == 0


def test_the_command_writes_metrics_and_choices(write, tmp_path, capsys):
    path = write([beta_question(), chat(DRUG % GENES, "resistant")])
    assert run_cli("evaluate", path, "--format", "cellverse", "--out", tmp_path / "out", "--resamples", "20") == 0
    printed = capsys.readouterr().out
    assert "cell_type: 100.0% right" in printed
    assert "1 of kind drug_response not answered: no task of the model" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["total"]["n"] == 2 and metrics["total"]["accuracy"] == 0.5
    rows = [json.loads(line) for line in (tmp_path / "out" / "choices.jsonl").read_text().splitlines()]
    assert rows[0]["choice"] == rows[0]["answer"] == "pancreatic beta cell"
    assert set(rows[0]["probabilities"]) == set(TYPES) and rows[1]["reason"] == NO_TASK


def test_the_command_refuses_options_of_descriptions(write, capsys):
    path = write([beta_question()])
    assert run_cli("evaluate", path, "--format", "cellverse", "--truth", "cell_type") == 2
    assert "--truth" in capsys.readouterr().err
    assert run_cli("evaluate", path, "--format", "bingo") == 2
    assert "cellverse, instructcell" in capsys.readouterr().err


def test_instructcell_templates_ask_about_the_cells_of_a_file(write, tmp_path, loaded):
    cells = cell2text.example_cells(unseen=True)
    of_types = [np.flatnonzero(cells.obs["cell_type"] == name)[:3] for name in ("B cell", "pancreatic A cell")]
    cells = cells[np.concatenate(of_types)].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    templates = [
        {"instruction": "Which cell type of {species} is {input}: {choices}?", "response": "{output}"},
        {"instruction": "Annotate {input}, from {tissue}.", "response": "It is {output}."},
        {"instruction": "Make a {cell_type} of {species}.", "response": "Here it is: {output}"},
    ]
    options = {"format": "instructcell", "n_resamples": 0}
    metrics = evaluate_choices(write(templates), model=loaded, cells=tmp_path / "cells.h5ad", **options)
    kinds = metrics["kinds"]
    assert sum(found["n"] for found in kinds.values()) == 6 and set(kinds) <= {CELL_TYPE, GENERATION}
    assert kinds[CELL_TYPE]["accuracy"] == 1
    named = [{"question": "Which cell type?", "options": ["T cell", "alpha cell"], "answer": "T cell", "cell_id": "x"}]
    with pytest.raises(UserError, match="Pass its file"):
        evaluate_choices(write(named), model=loaded, **options)


def test_templates_of_both_kinds_ask_with_the_answers_of_their_own_kind():
    cells = LabelledCells(
        "f", [f"c{i}" for i in range(40)], {CELL_TYPE: ["B", "T"] * 20, DRUG_RESPONSE: ["yes", "no"] * 20}, None
    )
    templates = [{"instruction": "What is {input}?"}, {"instruction": "Does {input} respond to {drug}?"}]
    questions = questions_from_templates(templates, cells)
    found = {(one.kind, one.candidates, one.answer) for one in questions}
    assert found == {
        (CELL_TYPE, ("B", "T"), "B"), (CELL_TYPE, ("B", "T"), "T"),
        (DRUG_RESPONSE, ("no", "yes"), "yes"), (DRUG_RESPONSE, ("no", "yes"), "no"),
    }  # fmt: skip


def test_the_command_checks_its_output_before_a_model_loads(write, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert run_cli("evaluate", write([beta_question()]), "--format", "cellverse", "--out", tmp_path / "out") == 2
    assert "--out" in capsys.readouterr().err and (tmp_path / "out").read_text() == "a file"


def test_drug_templates_need_a_column_of_responses(write, tmp_path):
    cell2text.example_cells(unseen=True)[:2].write_h5ad(tmp_path / "cells.h5ad")
    templates = write([{"instruction": "How does {input} respond to {drug}?", "response": "{output}"}])
    with pytest.raises(UserError, match="no column drug_response"):
        evaluate_choices(templates, format="instructcell", cells=tmp_path / "cells.h5ad")
