"""Lightning's commands (fit, validate, test, predict) over configs that name their classes."""
