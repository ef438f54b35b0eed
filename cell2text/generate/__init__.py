"""Generate counts of cells from a description in words.

    text -> concepts (type, tissue, disease, sex, life stage) -> latent states -> expected shares -> counts

The same parser and ontologies read descriptions and prompts. Weights are in `cell2text.models.generator`;
recipes/generator trains them.
"""
