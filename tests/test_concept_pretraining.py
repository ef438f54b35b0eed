"""Concept pretraining, its targets, and gene embeddings from co-expression and gene sets."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from cell2text.language.fields import Claim
from cell2text.signatures.gene_sets import GeneSets
from cell2text.training.augmentation import install_gene_hooks
from cell2text.training.class_balance import row_weights
from cell2text.training.concept_pretraining import (
    GROUP_WEIGHTS,
    ConceptClassifier,
    ConceptPretrainingResult,
    pretrain_concepts,
)
from cell2text.training.concept_targets import (
    CellConcepts,
    ConceptAugmentation,
    TrainingConceptOverrides,
    type_hierarchy,
    uninformative_types,
)
from cell2text.training.gene_embeddings import (
    EMBEDDING_SCALE,
    MEMBERSHIP,
    freeze_gene_embeddings,
    freeze_positions,
    initialise_gene_embeddings,
    start_from_gene_vectors,
)
from vocabulary_cell2text import SPECIAL_TOKENS

from .tiny import N_GENES, make_adata, make_model, make_processor


def rows_of(n=16, **columns):
    """Rows of two alternating cell types that differ in their first genes."""
    found = {
        "dataset_id": ["a"] * n,
        "cell_type": ["T cell", "B cell"] * (n // 2),
        "cell_type_ontology_term_id": [None] * n,
        "cells": [[[5 + i % 2, 7 + i % 2], [9]] if i % 3 else [[5 + i % 2, 7 + i % 2]] for i in range(n)],
    }
    return Dataset.from_dict(found | columns)


@pytest.fixture
def fresh(tiny_processor):
    return make_model("pooled", processor=tiny_processor, freeze_cell_encoder=False)


def start(model, processor, rows, folder, **options) -> ConceptPretrainingResult:
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True)
    weights = row_weights(rows, 0.5)
    return pretrain_concepts(model, processor, rows, args, epochs=12, learning_rate=1e-2, weights=weights, **options)


def test_first_cell_of_comparison_rows_is_learned(fresh, tiny_processor, tmp_path):
    assert start(fresh, tiny_processor, rows_of(), tmp_path).loss < np.log(2)


def test_pathways_are_learned_beside_the_type(tiny_processor, tmp_path):
    """Pathways that correlate with the cells lower the loss, permuted ones do not."""
    losses = []
    rng = np.random.default_rng(0)
    for order in (np.arange(32), rng.permutation(32)):
        sets = [["HYPOXIA"], ["GLYCOLYSIS"]] * 16
        rows = rows_of(32, pathways=[sets[i] for i in order])
        model = make_model("pooled", processor=tiny_processor, freeze_cell_encoder=False)
        losses.append(start(model, tiny_processor, rows, tmp_path).loss)
    assert losses[0] < losses[1] - 0.1


def test_loss_ignores_unknown_targets(fresh):
    torch.manual_seed(0)
    concepts = CellConcepts(
        {"multiclass": {"cell_type": ["T cell", "fibroblast", "c"]}, "multilabel": {"pathways": ["A", "B"]}}
    )
    classifier = ConceptClassifier(fresh, concepts).eval()
    cells = {
        "cell_input_ids": torch.tensor([[5, 7], [6, 8], [6, 7]]),
        "cell_attention_mask": torch.ones(3, 2, dtype=torch.long),
    }
    rows = [
        {"cell_type": "T cell", "cell_type_ontology_term_id": None, "pathways": ["A"]},
        {"cell_type": "c", "cell_type_ontology_term_id": None, "pathways": None},
        {"cell_type": "d", "cell_type_ontology_term_id": None, "pathways": None},  # no concept
    ]
    found = classifier(**cells, targets=concepts.targets(rows))
    features = fresh.model.get_cell_features(**cells).pooler_output.flatten(1)
    features = features / fresh.model.projector.output_norm.weight[0]  # as large as a head's first weights expect
    torch.testing.assert_close(features.pow(2).mean(), torch.tensor(1.0), rtol=1e-2, atol=0)
    odds = classifier.heads["pathways"](features)[0].sigmoid()
    torch.testing.assert_close(
        found["loss"],
        torch.nn.functional.cross_entropy(found["logits"][:2], torch.tensor([0, 2]))
        - GROUP_WEIGHTS["pathways"] * (odds[0].log() + (1 - odds[1]).log()) / 3,
    )


ORIGINS = {"tissue": ["blood", "brain"] * 8, "disease": ["unknown"] * 16, "sex": ["male", None] * 8}


def concept_model(processor, rows, **config):
    config = {"cell_concepts": CellConcepts.from_rows(rows).to_dict(), "freeze_cell_encoder": False, **config}
    return make_model("concepts", processor=processor, **config)


def test_concepts_are_what_the_rows_name():
    """`unknown` is a concept of an origin that only some rows have; an origin that no row has is omitted."""
    types = [" T cell", "unknown", "naive B cell", "B cell"] * 4
    terms = ["CL:0000084", None, "CL:0000788", "CL:0000236"] * 4
    rows = rows_of(
        cell_type=types, cell_type_ontology_term_id=terms, pathways=[["X"], None, ["Y", "X"], []] * 4, **ORIGINS
    )
    concepts = CellConcepts.from_rows(rows)
    assert concepts.names.multiclass == {"tissue": ["blood", "brain"], "sex": ["male", "unknown"]}
    assert concepts.names.multilabel == {"pathways": ["X", "Y"]}
    types = concepts.names.hierarchical["cell_type"]
    assert types["cell"] == [] and types["naive B cell"] == ["mature B cell"] and "B cell" in types
    targets = concepts.targets([rows[2], rows[3]])
    assert {group: targets[group].tolist() for group in ("tissue", "sex")} == {
        "tissue": [[1, 0], [0, 1]],
        "sex": [[1, 0], [0, 1]],
    }
    assert [concepts.groups["cell_type"][column] for column in targets["cell_type"].argmax(-1)] == [
        "naive B cell",
        "B cell",
    ]
    assert targets["cell_type"].sum(-1).tolist() == [1, 1]  # the label's own level alone
    assert targets["pathways"][0].tolist() == [1, 1] and targets["pathways"][1].isnan().all()
    assert (
        concepts.targets([{**rows[2], "cell_type": "neuron", "cell_type_ontology_term_id": None}])["cell_type"]
        .isnan()
        .all()
    )  # no name of these
    bare = concepts.targets([{name: value for name, value in rows[2].items() if name not in ("sex", "pathways")}])
    assert bare["sex"].isnan().all() and bare["pathways"].isnan().all() and bare["tissue"].tolist() == [[1, 0]]


def test_concept_heads_learn_their_targets(tiny_processor, tmp_path):
    rows = rows_of(pathways=[["X"], ["Y"]] * 8, **ORIGINS)
    model = concept_model(tiny_processor, rows)
    held_out = start(model, tiny_processor, rows, tmp_path, held_out=rows).held_out
    assert held_out["accuracy"] == 1
    batch = tiny_processor.pad_cells([cells[:1] for cells in rows["cells"]], return_tensors="pt")
    found = model.get_cell_concepts(**batch)
    targets = CellConcepts.from_rows(rows).targets(list(rows))
    assert set(found) == {"cell_type", "tissue", "sex", "pathways"}
    above = model.config.concepts.ancestors("cell_type").float()
    targets["cell_type"] = targets["cell_type"] @ above.T  # a T cell is a lymphocyte as well
    for group, values in found.items():
        assert torch.equal(values[:, 0].round(), targets[group]), group


def test_origin_heads_train_on_detached_features(tiny_processor):
    """Tissue, disease and sex correlate with the study, so their heads must not train the encoder."""
    rows = rows_of(pathways=[["X"], ["Y"]] * 8, **ORIGINS)
    concepts = CellConcepts.from_rows(rows)
    origin = set(concepts.groups) & {"tissue", "disease", "sex"}
    batch = tiny_processor.pad_cells([cells[:1] for cells in rows["cells"]], return_tensors="pt")
    found = []
    for left_out in (set(), origin):
        model = concept_model(tiny_processor, rows)
        classifier = ConceptClassifier(model, concepts)
        for field in left_out:
            del classifier.heads[field]
        classifier(**batch, targets=concepts.targets(list(rows)))["loss"].backward()
        projector = model.model.projector
        assert all(projector.heads[field].weight.grad.any() for field in origin - left_out)
        trained = [*model.model.cell_encoder.parameters(), *projector.pooled.parameters()]
        found.append([weight.grad for weight in trained if weight.grad is not None])
    assert len(found[0]) == len(found[1]) > 5
    assert all(torch.equal(*pair) for pair in zip(*found))


def test_rows_with_other_concepts_raise(tiny_processor, tmp_path):
    model = concept_model(tiny_processor, rows_of())
    with pytest.raises(ValueError, match=r"cell_concepts differ from those of these rows in \['pathways'\]"):
        start(model, tiny_processor, rows_of(pathways=[["X"], ["Y"]] * 8), tmp_path)


def test_frozen_encoder_does_not_change(tiny_processor, tmp_path):
    rows = rows_of()
    model = concept_model(tiny_processor, rows, freeze_cell_encoder=True)
    encoder, modes = model.model.cell_encoder, []
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    encoder.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    assert start(model, tiny_processor, rows, tmp_path, held_out=rows).held_out["accuracy"] == 1
    assert modes and not any(modes)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def test_gene_embeddings_mark_gene_set_members(fresh, tiny_processor):
    cells = [cell.tolist() for cell in tiny_processor.rank_encode(make_adata(20))]
    sets = GeneSets(["A", "B"], [["GENE1", "GENE3", "OLDNAME"], ["GENE3", "NOBODY"]])
    initialise_gene_embeddings(fresh, tiny_processor, cells, seed=0, gene_sets=sets)
    table = fresh.model.cell_encoder.get_input_embeddings().weight
    tokens = tiny_processor.gene_vocabulary.map_genes([f"GENE{i}" for i in range(N_GENES)])[0]
    expected = np.zeros((N_GENES, 2))
    expected[[0, 1, 3], 0] = expected[3, 1] = 1
    assert np.allclose(table[tokens, -2:].detach(), MEMBERSHIP * expected) and table[:, :-2].abs().sum() > 0
    for wrong, message in (
        (GeneSets(["A"], [["NOBODY"]]), "has none of the 1 genes"),
        (GeneSets([f"S{i}" for i in range(99)], [["GENE1"]] * 99), "99 gene sets fill the"),
    ):
        with pytest.raises(ValueError, match=message):
            initialise_gene_embeddings(fresh, tiny_processor, cells, seed=0, gene_sets=wrong)


def test_gene_embeddings_start_from_vectors(fresh, tiny_processor, tmp_path):
    table = fresh.model.cell_encoder.get_input_embeddings().weight
    before, tokens = table.detach().clone(), tiny_processor.gene_vocabulary.map_genes(["GENE1", "GENE3"])[0]
    vectors = np.array([[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]])
    np.savez(tmp_path / "v.npz", genes=np.array(["GENE1", "GENE3", "NOBODY"]), vectors=vectors)
    start_from_gene_vectors(fresh, tiny_processor, tmp_path / "v.npz", seed=0)
    assert np.allclose(
        table[tokens, :2].detach(), [[-EMBEDDING_SCALE, EMBEDDING_SCALE], [EMBEDDING_SCALE, -EMBEDDING_SCALE]]
    )
    others = np.setdiff1d(np.arange(len(table)), tokens)
    assert torch.equal(table[others], before[others]) and torch.equal(table[:, 2:], before[:, 2:])
    assert table.requires_grad


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"genes": np.array(["GENE1"])}, "cannot be read"),
        ({"genes": np.array(["GENE1"], dtype=object), "vectors": np.ones((1, 2))}, "cannot be read"),
        ({"genes": np.array(["GENE1"]), "vectors": np.ones((2, 2))}, "1 genes and vectors of the shape"),
        ({"genes": np.array(["GENE1"]), "vectors": np.full((1, 2), np.nan)}, "expected finite vectors"),
        ({"genes": np.array(["Cd3e"]), "vectors": np.ones((1, 2))}, "names none of the vocabulary's genes"),
    ],
)
def test_wrong_gene_vectors_are_refused(arrays, message, fresh, tiny_processor, tmp_path):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        start_from_gene_vectors(fresh, tiny_processor, tmp_path / "v.npz", seed=0)


@pytest.mark.parametrize("layers", [0, 3])
def test_positions_are_frozen_without_attention(layers, tiny_processor, tmp_path):
    """Position embeddings train only with attention layers; gene embeddings never train."""
    model = make_model("pooled", processor=tiny_processor, freeze_cell_encoder=False, cell_feature_layer=-1)
    model.model.cell_encoder.encoder.layer = model.model.cell_encoder.encoder.layer[:layers]
    model.model.cell_encoder.config.num_hidden_layers = layers
    cells = [cell.tolist() for cell in tiny_processor.rank_encode(make_adata(20))]
    initialise_gene_embeddings(model, tiny_processor, cells, seed=0)
    freeze_gene_embeddings(model)
    freeze_positions(model)
    embeddings = model.model.cell_encoder.embeddings
    genes = embeddings.word_embeddings.weight.detach().clone()
    start(model, tiny_processor, rows_of(), tmp_path)
    assert torch.equal(embeddings.word_embeddings.weight, genes)
    assert bool(embeddings.position_embeddings.weight.any()) == (layers > 0)


def test_held_out_cells_are_predicted_after_pretraining(fresh, tiny_processor, tmp_path):
    """A narrower annotated type counts as leniently correct; cells without a type are skipped."""
    naive = "naive B cell"
    held_out = rows_of(6, cell_type=["T cell", "B cell", "T cell", naive, "unknown", "B cell"])
    figures = start(fresh, tiny_processor, rows_of(), tmp_path, held_out=held_out).held_out
    assert figures["n"] == 5 and figures["lenient_accuracy"] == 1
    assert figures["accuracy"] == 0.8 and 0.8 < figures["pagerank_similarity"] < 1
    unknown = rows_of(2, cell_type=["unknown"] * 2)
    assert start(fresh, tiny_processor, rows_of(), tmp_path, held_out=unknown).held_out is None


@pytest.mark.parametrize("augment", [True, False])
def test_genes_are_hidden_only_in_training_and_only_with_augment(augment, fresh, tiny_processor, tmp_path):
    """Held-out cells keep all their genes."""
    shown = []

    def hide_all_but_the_first(ids, mask):
        shown.append(len(ids))
        return ids, mask & (torch.arange(ids.shape[1]) < 1)

    fresh.config.gene_dropout = 0.5
    install_gene_hooks(fresh, hide_all_but_the_first)
    seen = []
    fresh.model.projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].sum(-1)))
    start(fresh, tiny_processor, rows_of(), tmp_path, held_out=rows_of(8), augment=augment)
    *learned, asked = seen
    assert sum(shown) == (16 * 12 if augment else 0)  # every training cell in every epoch, and no other
    assert all((genes <= 1).all() if augment else (genes == 2).all() for genes in learned)
    assert torch.cat(learned).eq(0).any() == augment  # gene dropout took the last one of some
    assert len(asked) == 8 and (asked == 2).all()


def test_types_form_the_hierarchy_of_the_ontology():
    types = type_hierarchy([Claim("CD4-positive, alpha-beta T cell", "CL:0000624"), Claim("x")])
    assert next(iter(types)) == "cell" and types["x"] == ["cell"]
    assert types["CD4-positive, alpha-beta T cell"] == ["mature alpha-beta T cell"] and "B cell" not in types
    assert {"cell", "eukaryotic cell"} <= set(uninformative_types(types)) and "T cell" not in uninformative_types(types)


def test_profiles_without_one_cell_are_labelled_by_the_root_or_by_both_types(tiny_processor, tmp_path):
    """Ambient profiles teach that no type is known; two cells in one profile share the label."""
    rows = rows_of(
        cell_type=["T cell", "B cell", "T cell", None] * 4,
        profile=["one cell", None, "two cells", "ambient RNA"] * 4,
        second_cell_type=[None, None, "B cell", None] * 4,
    )
    concepts = CellConcepts.from_rows(rows)
    assert concepts.groups["profile"] == ["ambient RNA", "one cell", "two cells"]
    names = concepts.groups["cell_type"]
    targets = [dict(zip(names, values)) for values in concepts.targets(list(rows))["cell_type"].tolist()[:4]]
    assert targets[0]["T cell"] == targets[1]["B cell"] == targets[3]["cell"] == 1
    assert targets[2]["T cell"] == targets[2]["B cell"] == 0.5
    model = concept_model(tiny_processor, rows)
    assert np.isfinite(start(model, tiny_processor, rows, tmp_path).loss)


def test_overrides_say_what_the_text_says():
    """A broader type with a likely subtype; pathways in the order of the text; no type for a profile without one."""
    rows = rows_of(
        4, pathways=[["X", "Y"], ["Y"], [], ["Y", "X"]], profile=["one cell"] * 3 + ["ambient RNA"],
        cell_type=["T cell", "B cell", "T cell", None], stated_cell_type=["lymphocyte", "B cell", None, None],
        likely_subtype=["T cell", None, None, None], likely_subtype_probability=["0.62", None, None, None],
    )  # fmt: skip
    concepts = CellConcepts.from_rows(rows)
    found = {group: values.tolist() for group, values in concepts.names.split(concepts.overrides(list(rows))).items()}
    types = [dict(zip(concepts.groups["cell_type"], values)) for values in found["cell_type"]]
    assert [round(types[0][name], 2) for name in ("cell", "lymphocyte", "T cell", "B cell")] == [1, 1, 0.62, 0]
    assert (types[1]["B cell"], types[1]["lymphocyte"], types[1]["T cell"]) == (1, 1, 0)
    assert types[2]["T cell"] == types[3]["cell"] == 1 and types[3]["lymphocyte"] == 0
    assert found["pathways"] == [[1, 0.5], [0, 1], [0, 0], [0.5, 1]]


def test_training_overrides_are_found_by_cell_id(tiny_processor):
    """Both cells of a comparison get their labels; a cell outside the training rows gets NaN."""
    rows = rows_of(8, cell_id=[f"cell{i}" for i in range(8)], pathways=[["X"], ["Y"]] * 4)
    concepts = CellConcepts.from_rows(rows)
    found = TrainingConceptOverrides(concepts, rows)
    assert len(found.profiles) == 2  # of cells alike it keeps one
    examples = [
        {"cell_id": "cell1", "second_cell_id": "cell0", "cells": [[5], [6]]},
        {"cell_id": "cell4", "second_cell_id": "other", "cells": [[5], [6]]},
        {"cell_id": "cell5", "second_cell_id": None, "cells": [[5]]},
        {"cells": [[5]]},
    ]
    batch = found.batch(examples, 2)
    of_row = concepts.overrides(list(rows))
    torch.testing.assert_close(batch[0], of_row[[1, 0]], equal_nan=True)
    torch.testing.assert_close(batch[1:3, 0], of_row[[4, 5]], equal_nan=True)
    assert batch[1:, 1].isnan().all() and batch[3].isnan().all()


def test_types_outside_the_concepts_are_reported(caplog):
    concepts = CellConcepts(CellConcepts.from_rows(rows_of()).to_dict())
    rows = rows_of(8, cell_id=list("abcdefgh"), cell_type=["T cell", "neuron", "unknown", "glial cell"] * 2)
    with caplog.at_level("WARNING"):
        found = TrainingConceptOverrides(concepts, rows)
    assert "2 cell types of these rows are not concepts of the model" in caplog.text
    assert "glial cell, neuron" in caplog.text
    assert found.batch([{"cell_id": "b", "cells": [[5]]}], 1).isnan().all()


def test_concept_augmentation_mixes_groups_independently():
    """The most probable type and pathways stay; half of the cells get another cell's origin."""
    torch.manual_seed(0)
    groups = {"cell_type": ["a", "b", "c", "d"], "pathways": ["A", "B"], "tissue": ["x", "y"]}
    kinds = torch.tensor([[1, 0, 0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1, 0, 1.0]])
    known = kinds.repeat(500, 1)
    known[-1] = float("nan")
    found = ConceptAugmentation(groups)(known)
    assert found[-1].isnan().all() and found[:-1].isfinite().all()
    found, known = found[:-1], known[:-1]
    types, pathways, tissue = found.split([4, 2, 2], dim=1)
    assert torch.equal(types.argmax(-1), known[:, :4].argmax(-1)) and types.max(-1).values.min() >= 0.5
    assert torch.equal(pathways.argmax(-1), known[:, 4:6].argmax(-1))
    own = (tissue * known[:, 6:]).sum(-1)  # half of those swapped come from a cell of the same tissue
    assert 0.2 < (own < 0.5).float().mean() < 0.3
    torch.testing.assert_close(types.sum(-1), torch.ones(len(types)))
    assert types.max(-1).values.std() > 0.05 and not torch.equal(types.max(-1).values, pathways.max(-1).values)
    kept = ConceptAugmentation(groups, swapped_origin=0.0)(known)
    assert torch.equal(kept[:, 6:].argmax(-1), known[:, 6:].argmax(-1))


@pytest.mark.parametrize("with_cls", [True, False])
def test_genes_are_looked_up_as_the_encoder_computes_them(with_cls, tmp_path):
    """An encoder without layers gives the same loss by its table as by the states of every gene."""
    processor = make_processor() if with_cls else make_processor(specials=SPECIAL_TOKENS[:2])
    model = make_model("pooled", processor=processor, freeze_cell_encoder=False, cell_feature_layer=-1)
    encoder = model.model.cell_encoder
    encoder.encoder.layer, encoder.config.num_hidden_layers = encoder.encoder.layer[:0], 0
    assert (model.config.cell_cls_token_id is not None) == with_cls and model.model.gene_table() is None
    freeze_positions(model)
    first = [2] if with_cls else []
    cells = [[[*first, 5, 7, 9]], [[*first, 6]], [[*first, 8, 5]]]
    batch = processor.pad_cells(cells, return_tensors="pt")
    classifier = ConceptClassifier(model, CellConcepts.from_rows(rows_of())).eval()
    found = classifier.features(**batch)
    classifier.gene_table = lambda: None
    torch.testing.assert_close(found, classifier.features(**batch), rtol=1e-4, atol=1e-5)
