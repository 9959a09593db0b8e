"""Systems side by side, in TensorBoard and on one HTML page."""
