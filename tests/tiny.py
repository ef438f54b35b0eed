"""Tiny random models, tokenizers, vocabularies and cells, on CPU."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

import cell2text  # noqa: F401  registers the classes
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


N_GENES = 60
TEXT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message['content'] | trim + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for block in message['content'] %}{{ block['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(chat_template=TEXT_TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["This cell is a CD8 T cell from human blood.", "Describe this cell.", "A B cell expressing MS4A1."] * 20
    special = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>",
        extra_special_tokens=["<|im_start|>"], model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    fast.chat_template = chat_template
    return fast


def make_vocabulary(specials=SPECIAL_TOKENS, n_genes=N_GENES, max_genes=32) -> GeneVocabulary:
    genes = [f"ENSG{index:011d}" for index in range(n_genes)]
    medians = [*[np.nan] * len(specials), *(1 + (np.arange(n_genes) % 7) / 10)]
    symbols = [*[""] * len(specials), *(f"GENE{index}" for index in range(n_genes))]
    aliases = {"OLDNAME": genes[0], "ENSG99999999999": genes[1], "C1ORF1": genes[2]}
    return GeneVocabulary([*specials, *genes], np.array(medians), symbols, aliases, max_genes=max_genes)


CONCEPTS = {"multiclass": {"cell_type": ["B cell", "T cell"]}, "multilabel": {"pathways": ["A", "B", "C"]}}
TEXT_CONFIGS = {"llama": LlamaConfig, "gemma3": Gemma3TextConfig, "qwen3": Qwen3Config}


def make_model(projector="mlp", text="llama", processor=None, tie=False, **config):
    torch.manual_seed(0)
    processor = processor or make_processor()
    encoder = BertConfig(
        vocab_size=len(processor.gene_vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, pad_token_id=0, hidden_act="relu", initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    language_model = TEXT_CONFIGS[text](
        vocab_size=len(processor.tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, pad_token_id=0, bos_token_id=1, eos_token_id=3, tie_word_embeddings=tie,
        max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    defaults = {
        "projector_type": projector,
        "cell_feature_layer": -2,
        "freeze_cell_encoder": True,
        "projector_dropout": 0.0,
    }
    if projector == "concepts":
        defaults["cell_concepts"] = CONCEPTS
    return Cell2TextForConditionalGeneration.from_components(
        encoder, language_model, processor, **{**defaults, **config}
    ).eval()


def make_processor(chat_template=TEXT_TEMPLATE, specials=SPECIAL_TOKENS, num_cell_tokens=5) -> Cell2TextProcessor:
    return Cell2TextProcessor.from_components(
        make_tokenizer(chat_template), make_vocabulary(specials), num_cell_tokens=num_cell_tokens
    )


def make_adata(n_cells=12, n_genes=N_GENES, seed=0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2.0, size=n_genes), size=(n_cells, n_genes)).astype(np.float32)
    counts[:, 0] += 1  # no empty cell unless a test wants one
    obs = pd.DataFrame(index=[f"cell{index}" for index in range(n_cells)])
    var = pd.DataFrame({"feature_name": [f"GENE{index}" for index in range(n_genes)]})
    var.index = [f"ENSG{index:011d}" for index in range(n_genes)]
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)
