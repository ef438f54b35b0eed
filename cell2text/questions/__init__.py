"""Ask about cells, score a user's own labels, and search cells by words.

    question -> understanding (task, cell types, pathways) -> predictions of the cells -> answer
    labels   -> model_types (types of the model or text)   -> calibrated probabilities -> scores
    query    -> claims (types, pathways, sex, obs values)  -> probabilities and ranks  -> ranked cells

Words are matched to ontology terms and gene sets. They are never executed, and no part of a question reaches the
language model. Depends on `describe` for reading cells and on `inference` for predictions.
"""
