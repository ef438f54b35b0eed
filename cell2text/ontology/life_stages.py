"""Life stages of donors: HsapDv terms grouped into eight phrases that follow "in".

Boundaries are those of HsapDv: childhood up to 14 years, adolescence from 15 to 19, late adulthood from 60.
"""

from functools import cache

from cell2text.ontology.terms import ancestors, current_term


# The first entry that is a term's ancestor, or the term itself, determines its stage: narrow stages come first.
TERM_LIFE_STAGES = {
    "HsapDv:0000002": "the embryonic stage of prenatal development",
    "HsapDv:0000037": "the fetal stage of prenatal development",
    "HsapDv:0000045": "prenatal development",
    "HsapDv:0000260": "infancy",
    "HsapDv:0000265": "childhood",
    "HsapDv:0000271": "childhood",
    "HsapDv:0000264": "childhood",
    "HsapDv:0000268": "adolescence",
    "HsapDv:0000227": "late adulthood",
    "HsapDv:0000258": "adulthood",
    # Retired terms that have no replacement.
    "HsapDv:0000082": "infancy",
    "HsapDv:0000083": "infancy",
    "HsapDv:0000174": "infancy",
    "HsapDv:0000256": "infancy",
    "HsapDv:0000081": "childhood",
    "HsapDv:0000084": "childhood",
    "HsapDv:0000085": "childhood",
    "HsapDv:0000235": "childhood",
    "HsapDv:0000086": "adolescence",
    "HsapDv:0000087": "adulthood",
    "HsapDv:0000088": "adulthood",
    "HsapDv:0000089": "adulthood",
    "HsapDv:0000090": "adulthood",
    "HsapDv:0000092": "adulthood",
    "HsapDv:0000204": "adulthood",
    "HsapDv:0000091": "late adulthood",
    "HsapDv:0000093": "late adulthood",
    "HsapDv:0000094": "late adulthood",
}
LIFE_STAGES = tuple(dict.fromkeys(TERM_LIFE_STAGES.values()))


@cache
def life_stage(term_id: str | None) -> str | None:
    """Return the life stage of an HsapDv term; None if the term does not determine one.

    Examples
    --------
    >>> life_stage("HsapDv:0000119")  # 25 years
    'adulthood'
    """
    if term_id is None:
        return None
    above = ancestors(current_term("development_stage", term_id) or term_id) | {term_id}
    return next((stage for term, stage in TERM_LIFE_STAGES.items() if term in above), None)
