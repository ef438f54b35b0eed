"""Counts on disk: find files, open them, and stream checked blocks of raw counts.

`discovery` finds files, `containers`, `census` and `readers` read them, `blocks` streams their counts, and `checks`
raises `BadFileError` for content that cannot be used. `gene_tables` holds names of genes and mouse orthologs. All
functions take plain arguments and do not depend on the options of any command, on models or on prepared data sets.
"""
