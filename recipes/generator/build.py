"""Train the packaged generator and write it to cell2text/models/generator, in minutes on one core.

    python recipes/generator/build.py DATA ATLAS
    python recipes/generator/build.py DATA ATLAS --validation --out FOLDER
    python recipes/generator/build.py DATA ATLAS --without-combinations --out FOLDER
    python recipes/generator/build.py DATA ATLAS --card

DATA is the folder of the reference h5ad files, ATLAS the folder with `profiles` and `cells`; sources and test donors
are those of recipes/mini/sources.yaml. `--validation` also leaves out the validation donors of options.yaml, on which
options are compared; `--without-combinations` leaves out its pairs of type and tissue, which
benchmarks/generation.py generates. `--card` only writes the card, from the results of that benchmark.
"""

import argparse
from pathlib import Path

import fitting
import generator_card
import saving
import training_cells
import yaml

from cell2text.models import GENERATOR


OPTIONS = Path(__file__).with_name("options.yaml")


def build(cells: training_cells.TrainingCells, options: fitting.GeneratorOptions, out: Path, log=print) -> None:
    """Train a generator and write it."""
    numbering = fitting.number_conditions(cells)
    decoder = fitting.fit_means(cells, numbering, options, log)
    states = fitting.fit_states(cells, numbering, decoder, options, log)
    depths, _ = saving.log_depths(cells)
    flow = fitting.fit_flow(states, depths, numbering, fitting.row_weights(cells.obs), options, log)
    dispersion = fitting.fit_dispersion(cells, numbering, decoder, states, options)
    saving.save_generator(saving.make_generator(cells, numbering, decoder, flow, dispersion, options), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with mean profiles and further cells")
    parser.add_argument("--out", type=Path, default=GENERATOR, help="folder to write; the packaged one if omitted")
    parser.add_argument("--validation", action="store_true", help="leave out the validation donors")
    parser.add_argument("--without-combinations", action="store_true", help="leave out the pairs of type and tissue")
    parser.add_argument("--card", action="store_true", help="write the card instead of training")
    args = parser.parse_args()
    if (args.validation or args.without_combinations) and args.out == GENERATOR:
        parser.error("--out: name a folder for a generator that is not trained on everything.")
    settings = yaml.safe_load(OPTIONS.read_text())
    if args.card:
        generator_card.write_card(args.out)
        return
    left_out = settings["validation_donors"] if args.validation else []
    cells = training_cells.load_training_cells(args.data, args.atlas, without_donors=left_out)
    if args.without_combinations:
        cells = training_cells.without_combinations(cells, settings["combinations"])
    print(
        f"{cells.counts.shape[0]:,} cells and {len(cells.fractions)} profiles of {len(cells.genes):,} genes", flush=True
    )
    build(cells, fitting.GeneratorOptions(**settings["options"]), args.out)


if __name__ == "__main__":
    main()
