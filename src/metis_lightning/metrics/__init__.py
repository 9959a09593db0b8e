"""One file a metric: a pure function and a torchmetrics class."""
