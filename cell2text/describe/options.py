"""Options of `cell2text describe` and `cell2text.tl.describe`: one declaration for the command line and Python.

Depends on light modules only, so that options are checked before any library loads.
"""

from dataclasses import dataclass

from cell2text.errors import UserError
from cell2text.options import Options, document_options, option


@document_options
@dataclass(frozen=True)
class DescribeOptions(Options):
    """Options of a description run: what is described, and how.

    Raises
    ------
    UserError
        If an option has the wrong type or is out of range, `cells_per_group` is set without `groupby`,
        `evidence_in_text` without `evidence`, or `evidence` with `compare_to`.

    Examples
    --------
    >>> DescribeOptions(prompt="ask:tissue").max_new_tokens
    160
    """

    prompt: str | None = option(
        None,
        help="A question; a task: describe, annotate, pathways, compare, or ask:FIELD with FIELD one of cell_type, "
        "tissue, disease, sex, life_stage; or a JSON file with chat messages. The model's own prompt if omitted.",
    )
    compare_to: str | None = option(
        None, help="Name of a cell to compare every cell to; the second cell of each prompt. No comparison if omitted."
    )
    layer: str | None = option(
        None, help="Layer with the raw counts, `X`, or `raw` for adata.raw; the matrix that holds integers if omitted."
    )
    gene_key: str | None = option(
        None, help="Column of `var` that holds the gene names; detected automatically if omitted."
    )
    allow_fractional: bool = option(
        False, help="Accept non-integer counts, such as RSEM's expected counts. Otherwise they are an error."
    )
    species: str = option(
        "human", choices=("human", "mouse"),
        help="Species of the cells: human or mouse. Mouse genes are mapped to human genes by one-to-one orthologs.",
    )  # fmt: skip
    batch_size: int | None = option(
        None, minimum=1,
        help="Cells per batch; chosen from the free memory if omitted, and halved when a GPU runs out of it. It does "
        "not change the texts.",
    )  # fmt: skip
    max_new_tokens: int = option(160, minimum=1, help="Maximum number of generated tokens per text.")
    compile: bool = option(
        False,
        help="Compile the decoding step. The first batch takes a minute or two longer; afterwards a large language "
        "model on a GPU decodes about twice as fast. It does not change the texts, up to rounding.",
    )
    bf16: bool = option(
        False,
        help="Run the language model in bfloat16: about twice as fast on processors and GPUs with such instructions, "
        "for language models of some hundred million parameters and more. Concept probabilities stay the same, and so "
        "do types of models with hierarchical types; all else in a text can change.",
    )
    fields_only: bool = option(
        False, flag="--fields", help="Write the fields read from the texts, and leave out the texts."
    )
    plain_csv: bool = option(
        False,
        help="Write texts into csv files as they are. Otherwise texts that a spreadsheet would run as a formula, such "
        "as a cell name that starts with `=`, get an apostrophe in front.",
    )
    pathways: str | None = option(
        None, choices=("cell", "model"),
        help="Where stated pathways come from. cell: AUCell scores of the cell's own counts; model: the model's "
        "prediction. cell if omitted, for models that name Hallmark gene sets.",
    )  # fmt: skip
    sex: str | None = option(
        None, choices=("cell", "model"),
        help="Where a stated sex comes from. cell: XIST and Y genes among the cell's own counts; model: the model's "
        "prediction. cell if omitted, for models that name both sexes.",
    )  # fmt: skip
    evidence: int | None = option(
        None, minimum=1, maximum=100,
        help="Number of genes to report as evidence for each statement of a text. No evidence if omitted.",
    )  # fmt: skip
    evidence_in_text: bool = option(
        False, help="Also name the genes in sentences at the end of each text, such as `T cell is stated because of "
        "CD3D, CD3E and IL7R.`",
    )  # fmt: skip
    groupby: str | None = option(
        None, help="Column of `obs`, such as leiden, whose groups are also described as a whole. None if omitted."
    )
    cells_per_group: int | None = option(
        None, minimum=1,
        help="Number of cells to sample from each group for texts; all cells if omitted. Every cell gets an embedding.",
    )  # fmt: skip
    seed: int = option(
        0, minimum=0, maximum=2**32 - 1,
        help="Random seed for sampling cells within a group. Texts are generated greedily and do not depend on it.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evidence_in_text and self.evidence is None:
            raise UserError("evidence_in_text needs the number of genes. Pass evidence=5.")
        if self.evidence is not None and self.compare_to is not None:
            raise UserError("evidence applies to texts about one cell, but compare_to compares two. Omit one of them.")
        if self.cells_per_group is not None and self.groupby is None:
            raise UserError(
                f"cells_per_group={self.cells_per_group} needs the column of the groups. Pass groupby='COLUMN'."
            )
