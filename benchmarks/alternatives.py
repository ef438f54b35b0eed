"""Compare the speed and memory of description with what users would run instead, on the same cells and one thread.

    PYTHONPATH=. python benchmarks/alternatives.py FILE     # writes benchmarks/results/alternatives.json

FILE is an h5ad file of labelled raw counts. Every system runs in a process of its own. The rate is that of processor
seconds: imports, loading and training do not count. For `describe`, they are those of a run with a few cells, which are
subtracted from those of a run with more.

CellTypist (`pip install celltypist`) and kNN name one label each and learn from the first half of the file. The sizes
of Cell2Sentence (Pythia-160M, 100 gene symbols of four tokens, ten new tokens) and of LangCell's encoder (12 layers of
width 512 on at most 2,048 genes) run with random weights: their time does not depend on the weights, and nothing is
said about what they would answer.
"""

import argparse
import json
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from speed import DESCRIBE, PROJECT, process, rounded

from cell2text.files import write_atomically


RESULTS = Path(__file__).resolve().parent / "results" / "alternatives.json"
READ = """
import sys, time, anndata, numpy as np, torch
torch.set_num_threads(1)
source, training = sys.argv[1:3]
"""
LABELS = """
import scanpy as sc
def normalised(path):
    cells = anndata.read_h5ad(path)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells
learned = normalised(training)
learned = learned[learned.obs["cell_type"].astype(str) != "unknown"].copy()
"""
KNN = """
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
sc.pp.highly_variable_genes(learned, n_top_genes=2000)
genes = learned.var_names[learned.var["highly_variable"]]
dense = lambda adata: adata[:, genes].X.toarray()
reduced = PCA(50, random_state=0).fit(dense(learned))
nearest = KNeighborsClassifier(15).fit(reduced.transform(dense(learned)), learned.obs["cell_type"].astype(str))
started = time.process_time()
nearest.predict_proba(reduced.transform(dense(normalised(source))))
print(time.process_time() - started)
"""
CELLTYPIST = """
import celltypist
options = {"check_expression": False, "with_mean": False, "use_SGD": True, "mini_batch": True, "batch_size": 500,
    "epochs": 3, "n_jobs": 1}
model = celltypist.train(learned, labels="cell_type", **options)
started = time.process_time()
cells = normalised(source)
cells.X = cells.X.toarray()
celltypist.annotate(cells, model=model)
print(time.process_time() - started)
"""
CELL2SENTENCE = """
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
torch.manual_seed(0)
model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50_304, hidden_size=768, num_hidden_layers=12,
    num_attention_heads=12, intermediate_size=3072, max_position_embeddings=2048)).eval()
n_cells = anndata.read_h5ad(source, backed="r").n_obs
started = time.process_time()
for start in range(0, n_cells, 8):
    prompts = torch.randint(0, 50_000, (min(8, n_cells - start), 400))
    model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=10,
        min_new_tokens=10, pad_token_id=0)
print(time.process_time() - started)
"""
LANGCELL = """
import cell2text
from transformers import BertConfig, BertModel
torch.manual_seed(0)
_, processor = cell2text.load(device="cpu")
started = time.process_time()
cells = sorted(processor.rank_encode(anndata.read_h5ad(source), allow_fractional=True), key=len)
model = BertModel(BertConfig(vocab_size=len(processor.gene_vocabulary), hidden_size=512, num_hidden_layers=12,
    num_attention_heads=8, intermediate_size=1024, max_position_embeddings=2048)).eval()
with torch.inference_mode():
    for start in range(0, len(cells), 4):
        batch = [torch.from_numpy(np.asarray(cell[:2048], dtype=np.int64)) for cell in cells[start : start + 4]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        model(input_ids=ids, attention_mask=(ids != 0).long())
print(time.process_time() - started)
"""
# Code of each system and its numbers of cells.
SYSTEMS = {
    "describe": (DESCRIBE, (256, 2_304)),
    "describe --fields": (DESCRIBE, (256, 2_304)),
    "CellTypist": (READ + LABELS + CELLTYPIST, (2_304,)),
    "kNN": (READ + LABELS + KNN, (2_304,)),
    "Cell2Sentence, 160M": (READ + CELL2SENTENCE, (32,)),
    "LangCell encoder": (READ + LANGCELL, (32,)),
}


def cells_of(source: Path, folder: Path) -> tuple[dict[int, Path], Path]:
    """Write parts of the second half of a file, by their number of cells, and the first half, to learn from."""
    adata = ad.read_h5ad(source)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    half = len(order) // 2
    training = folder / "training.h5ad"
    adata[np.sort(order[:half])].copy().write_h5ad(training)
    paths = {}
    for n_cells in sorted({n for _, sizes in SYSTEMS.values() for n in sizes}):
        rows = order[half + np.arange(n_cells) % (len(order) - half)]
        part = ad.AnnData(adata.X[rows], var=adata.var, obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]))
        paths[n_cells] = folder / f"{n_cells}.h5ad"
        part.write_h5ad(paths[n_cells])
    return paths, training


def measure(name: str, paths: dict[int, Path], training: Path, folder: Path) -> dict | None:
    """Return the cells per processor second and the peak memory of a system, or None where it is not installed."""
    code, sizes = SYSTEMS[name]
    most = max(sizes)
    if code is DESCRIBE:
        arguments = (folder / "out.csv", "fields" if name.endswith("--fields") else "text")
        process(code, PROJECT, paths[min(sizes)], *arguments)  # compiled functions are cached by the first run
        small, large = (process(code, PROJECT, paths[n], *arguments) for n in sizes)
        seconds, cells = large["cpu"] - small["cpu"], most - min(sizes)
    else:
        try:
            large = process(code, PROJECT, paths[most], training)
        except RuntimeError as error:
            if "No module named 'celltypist'" in str(error):
                return None
            raise
        seconds, cells = float(large["printed"].splitlines()[-1]), most
    return {"cells_per_cpu_second": cells / seconds, "peak_MiB": large["MiB"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="h5ad file of labelled raw counts")
    parser.add_argument("--only", nargs="*", choices=SYSTEMS, default=SYSTEMS, help="defaults to all")
    args = parser.parse_args()
    found: dict = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"systems": {}}
    found["file"] = args.file.stem
    with tempfile.TemporaryDirectory() as name:
        paths, training = cells_of(args.file, Path(name))
        for system in args.only:
            found["systems"][system] = rounded(measure(system, paths, training, Path(name)))
            print(system, found["systems"][system], flush=True)
    write_atomically(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
