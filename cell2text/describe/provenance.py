"""Record what the texts of a description depend on: model, prompt, options, ontologies and libraries."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from cell2text.describe.options import DescribeOptions
from cell2text.ontology.terms import ontology_versions
from cell2text.provenance import library_versions


READING_OPTIONS = ("layer", "gene_key", "allow_fractional", "species", "pathways", "sex")
LIBRARIES = ("cell2text", "transformers", "torch", "anndata", "cellxgene-ontology-guide")


def provenance(
    model, processor, conversation: list[dict], options: DescribeOptions, model_name: str, groups=None
) -> dict[str, str]:
    """Return what the texts depend on, as texts for `uns["cell2text"]["params"]`.

    Parameters
    ----------
    model, processor
        The loaded model and its processor.
    conversation
        The prompt as chat messages.
    options
        Options of the run. The batch size is left out, since the texts do not depend on it.
    model_name
        Folder or Hub id of the model.
    groups
        :class:`~cell2text.describe.groups.Groups` of the cells, None if only cells are described.
    """
    chosen = {name: value for name, value in asdict(options).items() if name not in ("batch_size", "compile")}
    return {
        "model": model_name,
        "revision": str(getattr(model.config, "_commit_hash", None) or ""),
        "prompt": json.dumps(conversation, ensure_ascii=False),
        "generation": json.dumps(model.generation_config.to_diff_dict(), default=str, sort_keys=True),
        "options": json.dumps(chosen, sort_keys=True),
        "embedding": "mean over genes of the cell encoder's states at the projected layer",
        "gene_vocabulary": processor.gene_vocabulary.fingerprint,
        "ontologies": json.dumps(ontology_versions()),
        "libraries": json.dumps(library_versions(LIBRARIES)),
        **({} if groups is None else {"groups": json.dumps(groups.summary())}),
    }


def reading_options(params: Mapping[str, str]) -> DescribeOptions:
    """Return the options with which a description read counts and genes; the defaults for what it does not record.

    Parameters
    ----------
    params
        `uns["cell2text"]["params"]` of a described experiment.

    Examples
    --------
    >>> reading_options({"options": '{"layer": "counts", "prompt": "annotate"}'}).layer
    'counts'
    """
    try:
        chosen = json.loads(params.get("options", "{}"))
    except ValueError:
        chosen = {}
    chosen = chosen if isinstance(chosen, dict) else {}
    return DescribeOptions(**{name: chosen[name] for name in READING_OPTIONS if chosen.get(name) is not None})
