"""One of the processes that `kill.py` starts by torchrun: trains with a save after each step, or notes every state."""

import os
import sys
from pathlib import Path

import killed_run
import torch
import torch.distributed as dist

path = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
killed_run.STEPS, killed_run.BATCH = int(sys.argv[2]), 4
path.with_name(f"{dist.get_rank()}.pid").write_text(str(os.getpid()))
if path.suffix:
    killed_run.life(path)
else:
    killed_run.uninterrupted(Path(os.devnull) if dist.get_rank() else path)
dist.destroy_process_group()
