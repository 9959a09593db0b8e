"""The masked generative transformers, as plain torch modules."""
