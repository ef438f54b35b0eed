"""Turn fitted networks into a generator, and write it as a folder: float16 weights, genes, and the conditions seen."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fitting import GeneratorOptions, Numbering
from safetensors.torch import save_file
from training_cells import TrainingCells

from cell2text.files import atomic_path, write_atomically
from cell2text.generate.generator import (
    CONFIG_FILE,
    GENES_FILE,
    SEEN_COLUMNS,
    SEEN_FILE,
    WEIGHTS_FILE,
    CellGenerator,
)
from cell2text.generate.network import Decoder, Flow


# Studies whose assay (droplets, unique molecular identifiers, whole cells) types without own cells borrow.
LENDING = ("kidney_immune", "pbmc3k")


def log_depths(cells: TrainingCells) -> tuple[np.ndarray, dict[str, dict]]:
    """Return standardised logarithmic depths, shape (n_cells,), and what standardises them, by study."""
    depth = np.log(np.asarray(cells.counts.sum(axis=1)).ravel())
    found, standardised = {}, np.zeros(len(depth))
    for name in cells.measured:
        rows = (cells.obs["style"] == name).to_numpy()
        own = depth[rows]
        found[name] = {
            "assay": cells.assays[name], "mean": float(own.mean()), "deviation": float(own.std()),
            "low": float(own.min()), "high": float(own.max()), "lends": name in LENDING,
        }  # fmt: skip
        standardised[rows] = (own - own.mean()) / own.std()
    return standardised, found


def make_generator(
    cells: TrainingCells, numbering: Numbering, decoder: Decoder, flow: Flow, dispersion: np.ndarray,
    options: GeneratorOptions,
) -> CellGenerator:  # fmt: skip
    """Return the generator; styles of profiles are left out."""
    n = len(cells.measured)
    sizes = (len(cells.genes), len(numbering.nodes), n, len(numbering.groups))
    small = Decoder(*sizes, options.rank, options.latent)
    state = decoder.state_dict()
    small.load_state_dict(state | {"styles": state["styles"][:n]})
    config = {
        "profiles": len(cells.profiles),
        "nodes": numbering.nodes,
        "groups": numbering.groups,
        "styles": log_depths(cells)[1],
        "sizes": {"rank": options.rank, "latent": options.latent, "hidden": options.hidden},
    }
    measured = np.array(list(cells.measured.values()))
    return CellGenerator(small, flow, config, measured, dispersion, cells.genes, seen_conditions(cells))


def seen_conditions(cells: TrainingCells) -> pd.DataFrame:
    """Count the training cells of each condition, study and donor; profiles have 0 cells."""
    columns = list(SEEN_COLUMNS[:-1])
    of_cells = cells.obs.groupby(columns, observed=True).size().rename("cells").reset_index()
    of_profiles = cells.profiles[columns].drop_duplicates().assign(cells=0)
    return pd.concat([of_cells, of_profiles], ignore_index=True)


def save_generator(generator: CellGenerator, folder: Path) -> None:
    """Write a generator as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"{name}.{key}": value.to(torch.float16).contiguous()
        for name, network in (("decoder", generator.decoder), ("flow", generator.flow))
        for key, value in network.state_dict().items()
    }
    leading = torch.where(weights["decoder.loadings"].any(dim=0))[0]
    weights["decoder.loadings"] = weights["decoder.loadings"][:, leading].contiguous()
    weights["leading_genes"] = leading
    weights["measured"] = torch.tensor(generator.measured)
    weights["dispersion"] = torch.tensor(generator.dispersion).to(torch.float16)
    with atomic_path(folder / WEIGHTS_FILE) as partial:
        save_file(weights, partial, metadata={"format": "pt"})
        os.chmod(partial, 0o644)  # safetensors makes files that only their owner can read
    write_atomically(folder / CONFIG_FILE, json.dumps(generator.config, indent=1) + "\n")
    write_atomically(folder / GENES_FILE, "\n".join(generator.genes) + "\n")
    write_atomically(folder / SEEN_FILE, generator.seen.to_csv(sep="\t", index=False))
