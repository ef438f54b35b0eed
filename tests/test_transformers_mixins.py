"""transformers' own model and processor tests, run against Cell2Text.

They are in the source distribution of the installed transformers release, not in its wheel: `.ci/run` fetches it and
names it in TRANSFORMERS_SOURCE. Test helpers that even the source distribution lacks are replaced by empty ones.
`transformers_exceptions.py` names every test that fails or skips, with its reason; anything else is an error.
"""

import importlib
import os
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertConfig, LlamaConfig

from configuration_cell2text import Cell2TextConfig
from modeling_cell2text import Cell2TextForConditionalGeneration, Cell2TextModel
from processing_cell2text import Cell2TextProcessor

from .tiny import CONCEPTS, make_processor


SOURCE = os.environ.get("TRANSFORMERS_SOURCE")
if not SOURCE:
    pytest.skip("TRANSFORMERS_SOURCE does not name transformers' source distribution", allow_module_level=True)
if f"transformers-{transformers.__version__}" not in str(Path(SOURCE).resolve()):
    raise RuntimeError(f"TRANSFORMERS_SOURCE={SOURCE} is not the source of transformers {transformers.__version__}.")

# A test expects the warning about the cache's older name, which pyproject.toml silences.
pytestmark = pytest.mark.filterwarnings("always:.past_key_values. is deprecated:FutureWarning")


@pytest.fixture(autouse=True, scope="module")
def _short_tensors():
    """Print the corners of tensors alone: a test formats thousands of them for messages that nobody sees."""
    torch.set_printoptions(threshold=0, edgeitems=1)
    yield
    torch.set_printoptions(profile="default")


def import_transformers_test(name: str):
    """A module of transformers' test folder, with the helpers that its source distribution lacks stubbed."""
    package = types.ModuleType("transformers_tests")
    package.__path__ = [str(Path(SOURCE, "tests"))]
    sys.modules.setdefault("transformers_tests", package)
    stubs = {
        "transformers_tests.exporters": {},
        "transformers_tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "transformers_tests.generation": {},
        "transformers_tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url, **kwargs: url},
    }
    for module_name, content in stubs.items():
        module = sys.modules.setdefault(module_name, types.ModuleType(module_name))
        for key, value in content.items():
            if not hasattr(module, key):
                setattr(module, key, value)
    return importlib.import_module(f"transformers_tests.{name}")


modeling_common = import_transformers_test("test_modeling_common")
processing_common = import_transformers_test("test_processing_common")
# Where a model of transformers itself is listed, and where its tests look for what a class can do.
modeling_common.MODEL_MAPPING_NAMES["cell2text"] = "Cell2TextModel"
modeling_common.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["cell2text"] = "Cell2TextForConditionalGeneration"
GenerationTesterMixin = sys.modules["transformers_tests.generation.test_utils"].GenerationTesterMixin


class Cell2TextModelTester:
    """A tiny model and a batch: one row with two cells, the others with one."""

    projector_type, cell_concepts = "mlp", None
    batch_size, num_cells, num_genes, num_cell_tokens = 7, 2, 9, 4
    seq_length = 16
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    cell_token_id, is_training = 7, True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        cell_config = BertConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
            max_position_embeddings=16, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        text_config = LlamaConfig(
            vocab_size=99, hidden_size=self.hidden_size, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=37, max_position_embeddings=64, pad_token_id=1, bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        return Cell2TextConfig(
            cell_config=cell_config, text_config=text_config, cell_token_id=self.cell_token_id,
            num_cell_tokens=self.num_cell_tokens, projector_type=self.projector_type, projector_num_layers=1,
            projector_dropout=0.0, cell_concepts=self.cell_concepts, cell_feature_layer=-1, cell_cls_token_id=2, freeze_cell_encoder=False,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        generator = torch.Generator().manual_seed(0)
        cell_input_ids = torch.randint(4, 50, (self.batch_size, self.num_cells, self.num_genes), generator=generator)
        cell_input_ids[:, :, 0] = 2
        cell_attention_mask = torch.ones_like(cell_input_ids)
        cell_input_ids[:, 0, 6:], cell_attention_mask[:, 0, 6:] = 0, 0
        input_ids = torch.randint(10, 99, (self.batch_size, self.seq_length), generator=generator)
        input_ids[:, 1 : 1 + self.num_cells * self.num_cell_tokens] = self.cell_token_id
        return config, {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "cell_input_ids": cell_input_ids,
            "cell_attention_mask": cell_attention_mask,
        }


class PerceiverModelTester(Cell2TextModelTester):
    projector_type = "perceiver"


class ConceptsModelTester(Cell2TextModelTester):
    """Holds a pooled projector, too."""

    projector_type, cell_concepts = "concepts", CONCEPTS


class ModelTests(modeling_common.ModelTesterMixin, GenerationTesterMixin):
    all_model_classes = (Cell2TextModel, Cell2TextForConditionalGeneration)
    all_generative_model_classes = (Cell2TextForConditionalGeneration,)
    additional_model_inputs = ["cell_input_ids", "cell_attention_mask"]
    _is_composite = True
    model_tester_class = Cell2TextModelTester

    test_can_init_all_missing_weights_before_2023 = True  # do not skip it

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        if "rope" in self._testMethodName:  # random text without cells, which may hold no placeholder
            self.model_tester.cell_token_id = 10_000


class TestMLPModel(ModelTests, unittest.TestCase):
    pass


class TestPerceiverModel(ModelTests, unittest.TestCase):
    model_tester_class = PerceiverModelTester


class TestConceptsModel(ModelTests, unittest.TestCase):
    model_tester_class = ConceptsModelTester


class TestProcessor(processing_common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = Cell2TextProcessor

    @classmethod
    def _setup_from_components(cls):
        return make_processor()

    @staticmethod
    def prepare_processor_dict():
        return {"num_cell_tokens": 5, "max_genes": 32}

    @classmethod
    def _setup_tokenizer(cls):
        return make_processor().tokenizer
