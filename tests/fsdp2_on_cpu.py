"""Runs a script under FSDP2 on CPU ranks: `torchrun ... fsdp2_on_cpu.py SCRIPT ARGS`.

accelerate turns FSDP on for GPUs alone, though PyTorch shards on CPU as well. This tells accelerate that it is on;
sharding, gathering and checkpoints are all theirs.
"""

import os
import runpy
import sys
from pathlib import Path

from accelerate import state
from accelerate.utils import DistributedType


OPTIONS = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}  # fmt: skip

plain_init = state.AcceleratorState.__init__


def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    plain_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    self.fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    os.environ.update(OPTIONS)
    state.AcceleratorState.__init__ = init_with_fsdp
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
