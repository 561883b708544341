"""The real template, whose workers on SIGUSR1 write what torch, OpenMP, MKL and the kernel say of their threads.

python -m tests.torch_workers CONTROL_FD LIFELINE_FD SOCKET     (a supervisor starts it)

What the thread sees that loads a version is written too, into loading.json.
"""

import json
import os
import signal
import threading
from pathlib import Path

from workers.template import import_everything
from workers.template import main as template_main
from workers.worker import serve


def preload():
    import_everything()
    from workers.torch_version import limit_threads, load_torch_version

    n_template_threads = len(os.listdir("/proc/self/task"))

    def load_and_tell(home, digest, *, on_state):
        loaded = load_torch_version(home, digest, on_state=on_state)
        if threading.current_thread() is not threading.main_thread():
            tell(home.root, "loading", n_template_threads)
        return loaded

    def serve_and_tell(settings, lifeline):
        signal.signal(signal.SIGUSR1, lambda *_: tell(Path(settings.home), "threads", n_template_threads))
        limit_threads(settings.threads)
        return serve(settings, load_and_tell, lifeline)

    return serve_and_tell


def tell(home, name, n_template_threads):
    """Runs in the worker's main thread, where the model is computed, or in the one that loads."""
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
    part = home / f"{name}.part"
    part.write_text(json.dumps(figures))
    part.rename(home / f"{name}.json")


if __name__ == "__main__":
    template_main(preload)
