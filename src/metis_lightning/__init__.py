"""Metis (arXiv 2502.03128) for PyTorch Lightning: train, run and evaluate.

Importing the package does two things: it makes `import torchaudio` possible on a CPU-only torch, and keeps oneDNN's
memory small.
"""

import os

from metis_lightning._torchaudio import stand_in_for_missing_extension

stand_in_for_missing_extension()
# On a CPU oneDNN keeps a program for each of the last 1,024 shapes, and speech has new ones at every batch: hundreds
# of MB in a loader's worker, gigabytes in a training. It asks once, at the first product or convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

__version__ = "0.2.0"
