"""What a cell's own counts show without a model: activity of gene sets, and the sex that XIST and Y genes indicate.

`gene_sets` reads sets and finds their genes in a file, `aucell` scores them, `pathways` names the most active ones, and
`sex` reads XIST and genes of the Y chromosome. Preparing, describing and evaluating share these definitions.
"""
