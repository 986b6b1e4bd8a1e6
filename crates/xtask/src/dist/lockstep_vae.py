"""Starts the programs of Lockstep, which are in the folder `bin` beside this file.

They are native programs. They look for libtorch in the package torch beside this package. If torch is in another
folder, LD_LIBRARY_PATH gives them its path.
"""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path


def _start(name):
    here = Path(__file__).parent
    torch = find_spec("torch")
    if torch is None:
        sys.exit("error: the package torch, which brings libtorch, is not installed")
    libraries = Path(torch.origin).parent / "lib"
    if not (here.parent / "torch/lib/libtorch_cpu.so").is_file():
        paths = [str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
    # Python ignores these signals, and the started program would inherit this.
    for name_of_signal in ["SIGPIPE", "SIGXFSZ"]:
        signal.signal(getattr(signal, name_of_signal), signal.SIG_DFL)
    os.execv(here / "bin" / name, sys.argv)


def vae_coordinator():
    _start("vae-coordinator")


def vae_worker():
    _start("vae-worker")


def vae():
    _start("vae")
