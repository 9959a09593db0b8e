"""Several tasks in one batch: each item is made by a recipe that is drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.noises_and_rooms import RecordingFolder
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem


@dataclass(frozen=True)
class WeightedRecipe:
    """A recipe and how often it is drawn, relative to the others."""

    recipe: Recipe
    weight: float


class OmniRecipe(Recipe):
    """Draws one of several recipes for every item (Metis, 2502.03128, section 4.2).

    The paper's weights are TTS : VC : TSE : SE = 0.5 : 0.1 : 0.2 : 0.2. Weights need not sum to one, and any recipes
    go together whose items differ in what they lack: a script, a source, a prompt.
    """

    def __init__(self, tasks: Sequence[WeightedRecipe]) -> None:
        """Choose the recipes.

        Raises:
            ValueError: if there is none, or a weight is not above zero.
        """
        if not tasks or any(task.weight <= 0 for task in tasks):
            raise ValueError("tasks: give at least one recipe, each with a weight above zero")
        self.recipes = tuple(task.recipe for task in tasks)
        self.weights = torch.tensor([task.weight for task in tasks])

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return the item of the drawn recipe."""
        return self._draw(generator)(corpus, index, generator)

    def recordings(self) -> Sequence[RecordingFolder]:
        """Return the folders that any of the recipes draws from."""
        return [folder for recipe in self.recipes for folder in recipe.recordings()]

    def seconds(self, corpus: SpeechCorpus, index: int, generator: torch.Generator | None = None) -> float:
        """Return the longest that any of the recipes gives, or what the item of the drawn recipe lasts."""
        if generator is None:
            return max(recipe.seconds(corpus, index) for recipe in self.recipes)
        return self._draw(generator).seconds(corpus, index, generator)

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether items of a recipe do, or recipes differ in what an utterance lasts."""
        if any(recipe.varies(corpus) for recipe in self.recipes):
            return True
        return any(len({recipe.seconds(corpus, i) for recipe in self.recipes}) > 1 for i in range(len(corpus)))

    def _draw(self, generator: torch.Generator) -> Recipe:
        # The first draw of the item's generator, in the plan of batches as in the item.
        return self.recipes[int(torch.multinomial(self.weights, 1, generator=generator))]
