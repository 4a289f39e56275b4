"""One of the processes that `kill.py` starts by torchrun: trains with a save after each step, or notes every state."""

import os
import sys
from pathlib import Path

import killed_run
import torch
import torch.distributed as dist
from kill import LONG

path = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
killed_run.STEPS, killed_run.BATCH = LONG, 4
trainer = killed_run.new_trainer()
path.with_name(f"{dist.get_rank()}.pid").write_text(str(os.getpid()))
if path.suffix == ".safetensors":
    trainer.fit(path, seconds_between_saves=0)
else:
    digests = [killed_run.digest(trainer._state()), *(killed_run.digest(trainer._state()) for _ in trainer.run())]
    if not dist.get_rank():
        path.write_text("\n".join(digests))
dist.destroy_process_group()
