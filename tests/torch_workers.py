"""The real template, whose workers on SIGUSR1 write what torch, OpenMP, MKL and the kernel say of their threads.

python -m tests.torch_workers CONTROL_FD LIFELINE_FD     (a supervisor starts it)
"""

import json
import os
import signal
from pathlib import Path

from workers.template import import_everything
from workers.template import main as template_main


def preload():
    serve = import_everything()
    n_template_threads = len(os.listdir("/proc/self/task"))

    def serve_and_tell(settings, lifeline):
        signal.signal(signal.SIGUSR1, lambda *_: tell(Path(settings.home), n_template_threads))
        return serve(settings, lifeline)

    return serve_and_tell


def tell(home, n_template_threads):
    """Runs in the worker's main thread, where the model is computed."""
    import torch

    figures = {
        "template": n_template_threads,
        "torch": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "parallel_info": torch.__config__.parallel_info(),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": sorted(
            Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")
        ),
    }
    beside = home / "threads.part"
    beside.write_text(json.dumps(figures))
    beside.rename(home / "threads.json")


if __name__ == "__main__":
    template_main(preload)
