"""The paper's tables with our results, as Markdown, LaTeX, CSV and HTML."""
