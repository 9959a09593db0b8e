"""Metis (arXiv 2502.03128) for PyTorch Lightning: train, run and evaluate.

Importing the package does one thing: it makes `import torchaudio` possible on a CPU-only torch.
"""

from metis_lightning._torchaudio import stand_in_for_missing_extension

stand_in_for_missing_extension()

__version__ = "0.2.0"
