"""Runs a script on the ranks of one launch, once per configuration, under FSDP2 for those after `--fsdp2`:
`accelerate launch ... ranks_on_cpu.py SCRIPT --config A ... --fsdp2 B ...`.

Every run is a fork of its rank, so that imports are paid once. accelerate turns FSDP on for GPUs alone, though PyTorch
shards on CPU as well. This tells accelerate that it is on; sharding, gathering and checkpoints are all theirs.
"""

import importlib
import os
import sys
from functools import partial
from pathlib import Path

from accelerate import state
from accelerate.utils import DistributedType
from torch.distributed import PrefixStore


sys.path.insert(0, str(Path(__file__).resolve().parent))
from forked_runs import fork_run, import_runs


OPTIONS = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}  # fmt: skip

rendezvous = importlib.import_module("torch.distributed.rendezvous")  # torch.distributed has a function of this name
plain_init = state.AcceleratorState.__init__


def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    plain_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    self.fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP


def begin(number: int, sharded: bool) -> None:
    """Let the ranks of a run meet under its number in the launcher's store, which all runs share."""
    create = rendezvous._create_c10d_store
    rendezvous._create_c10d_store = lambda *args, **kwargs: PrefixStore(f"run_{number}", create(*args, **kwargs))
    if sharded:
        os.environ.update(OPTIONS)
        state.AcceleratorState.__init__ = init_with_fsdp


if __name__ == "__main__":
    import_runs()
    script, _, *configurations = sys.argv[1:]
    first_sharded = configurations.index("--fsdp2")
    configurations.remove("--fsdp2")
    for number, configuration in enumerate(configurations):
        process = fork_run([script, "--config", configuration], partial(begin, number, number >= first_sharded))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code:
            sys.exit(code)
