"""Front ends and tokenizers: from waveforms to features and tokens, and back."""
