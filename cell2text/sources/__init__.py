"""Read counts: which container, which matrix, which genes. Knows nothing of options, models or data sets."""
