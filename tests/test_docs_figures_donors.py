"""Figures of the guide about donors equal the results that the benchmark wrote."""

import pytest

from .test_docs_figures import GUIDES, prose, results, row


SYSTEMS = (
    "attention", "attention, concepts only", "attention, embedding only", "mean", "pseudobulk logistic regression",
)  # fmt: skip
KANG = (
    "kang, 100 cells per sample",
    "kang, 10 cells per sample",
    "kang, 20 % treated cells",
    "kang, 5 % treated cells",
)


@pytest.fixture(scope="module")
def guide() -> str:
    return (GUIDES / "donors.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tasks() -> dict:
    return results("donors")["tasks"]


def over_seeds(figures: list[float]) -> str:
    mean, low, high = (f"{value:.2f}" for value in figures)
    return mean if low == high else f"{mean} ({low} to {high})"


def test_auroc_of_every_task_and_system_is_quoted(guide, tasks):
    for name, task in tasks.items():
        systems = task["systems"]
        low, high = systems["attention"]["auroc_interval"]
        assert row(guide, f"{name} |")[1:] == [
            f"{task['donors']}, {task['samples']}", *(over_seeds(systems[system]["auroc"]) for system in SYSTEMS),
            f"{low:.2f} to {high:.2f}",
        ]  # fmt: skip


def test_the_cells_and_concepts_that_carry_the_prediction_are_quoted(guide, tasks):
    for name in KANG:
        concepts = tasks[name]["systems"]["attention"]["concepts"]
        assert next(iter(concepts)) == "HALLMARK_INTERFERON_ALPHA_RESPONSE"
        assert concepts["HALLMARK_INTERFERON_ALPHA_RESPONSE"] == results("donors")["settings"]["seeds"]
    (c20, a20), (c5, a5) = (
        [
            f"{tasks[name]['systems']['attention'][f'treated_cells_by_{score}'][0]:.2f}"
            for score in ("contribution", "attention")
        ]
        for name in KANG[2:]
    )
    text = prose(guide)
    assert (
        f"above the untreated ones with an AUROC of {c20} at 20 % and {c5} at 5 %, and `attention` with {a20} and {a5}"
        in text
    )


def test_losses_to_pseudobulk_are_stated_as_measured(guide, tasks):
    better_brier = []
    for name, task in tasks.items():
        own, pseudobulk = task["systems"]["attention"], task["systems"]["pseudobulk logistic regression"]
        assert pseudobulk["auroc"][0] >= own["auroc"][0]
        if pseudobulk["brier"][0] < own["brier"][0]:
            better_brier.append(name)
    assert set(tasks) - set(better_brier) == {"gut"}
    text = prose(guide)
    assert "it was at least as good in every task" in text and "lower in every task but the gut" in text
    for name in KANG[2:]:
        assert tasks[name]["systems"]["attention"]["auroc"][0] > tasks[name]["systems"]["mean"]["auroc"][0]


def test_the_contradiction_in_the_gut_file_is_quoted(guide):
    found = results("donors")["sex_genes_in_gut"]
    assert f"{found['donors_with_both']} of {found['donors']} donors have" in prose(guide)
