"""One run of `evaluate`: systems over test sets to waveforms and scored rows."""
