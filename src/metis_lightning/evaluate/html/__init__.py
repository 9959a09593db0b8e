"""Parts of HTML pages: frame, styles, players, spectrograms."""
