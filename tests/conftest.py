"""What every test runs under: no model hub, one thread, torchaudio importable."""

import os
from pathlib import Path

# Set before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Set before numpy and torch start their threads, and for the processes that tests start: the workers of pytest-xdist do
# not fight over the cores, and sums of floats come out alike in every process.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import pytest
import torch

import metis_lightning
from tiny import make_tiny_bundle

# Processes that tests start find the package too, installed or not.
SOURCE = str(Path(metis_lightning.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep the workers of pytest-xdist from fighting over the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle of tiny random models; tests must not change it."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
