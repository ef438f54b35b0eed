"""Which errors are a user's to mend: those that our own code raises, with a message. All others are faults of ours."""

import traceback
from pathlib import Path


HERE = Path(__file__).resolve().parent


def complaint(error: BaseException) -> str | None:
    """The message of a ValueError or KeyError that our code raised, None for any other error."""
    if not isinstance(error, (ValueError, KeyError)):
        return None
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    if HERE not in raised_in.parents and not (raised_in.parent == HERE.parent and raised_in.stem in OURS):
        return None
    return str(error.args[0] if type(error) is KeyError else error)


OURS = {
    "configuration_cell2text", "counts_cell2text", "generation_cell2text",
    "modeling_cell2text", "pipeline_cell2text", "processing_cell2text",
    "projectors_cell2text", "ranking_cell2text", "vocabulary_cell2text", "train_sft", "train_encoder",
}  # fmt: skip
