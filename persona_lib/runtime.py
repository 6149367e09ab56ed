"""Where and how torch runs: nothing here may change what is computed.

Device, threads and determinism are properties of the machine. They are recorded
as provenance and enter no key.
"""

from __future__ import annotations

import logging
import os
import warnings


def prepare_torch() -> str:
    """Make torch deterministic and quiet; return the device, ``cuda`` or ``cpu``.

    ``FLATLAND_THREADS`` sets the number of CPU threads (default: torch's own).
    On a GPU a kernel without a deterministic variant is allowed, with a warning.
    """
    # cuBLAS is deterministic only with a fixed workspace, set before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*use_reentrant.*")
    threads = os.environ.get("FLATLAND_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    return device
