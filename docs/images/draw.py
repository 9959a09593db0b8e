"""Draws the pictures of README and docs as SVG, each once for light and once for dark pages.

    python docs/images/draw.py

The numbers in them are the package's own: how many tokens are masked before a step is what the sampler masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from metis_lightning.sampling.mask_predict import num_masked
from metis_lightning.task_table import TASKS

FOLDER = Path(__file__).parent
FRAMES, STEPS, QUANTIZERS = 24, 10, 4
FONT = "font-family='Inter, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Colours:
    """Colours of a page: text, its quieter form, boxes, their edges, and the tokens of the two stages."""

    ink: str
    quiet: str
    box: str
    edge: str
    ssl: str
    acoustic: str


PAGES = {
    "light": Colours("#1b1f24", "#57606a", "#f6f8fa", "#afb8c1", "#0969da", "#bc4c00"),
    "dark": Colours("#e6edf3", "#9198a1", "#161b22", "#484f58", "#58a6ff", "#f0883e"),
}


class Drawing:
    """SVG of one picture, in one page's colours; places are in units of the view box."""

    def __init__(self, width: int, height: int, colours: Colours, title: str) -> None:
        self.colours = colours
        self._parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img' {FONT}>",
            f"<title>{title}</title>",
        ]

    def text(self, x: float, y: float, words: str, size: int = 20, quiet: bool = False, bold: bool = False) -> None:
        """Write words centred on x, their baseline at y."""
        colour = self.colours.quiet if quiet else self.colours.ink
        weight = " font-weight='600'" if bold else ""
        self._parts.append(
            f"<text x='{x:g}' y='{y:g}' font-size='{size}' text-anchor='middle' fill='{colour}'{weight}>{words}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, head: str, *lines: str) -> None:
        """Draw a box with a heading and lines under it."""
        self._parts.append(
            f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='10' fill='{self.colours.box}' "
            f"stroke='{self.colours.edge}' stroke-width='1.5'/>"
        )
        middle = x + width / 2
        first = y + (height - 25 * len(lines)) / 2 + 7
        self.text(middle, first, head, bold=True)
        for number, line in enumerate(lines, start=1):
            self.text(middle, first + 25 * number, line, 18, quiet=True)

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through points with a head at the last, which lies straight above or below the one before."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        (x, y), down = points[-1], 1 if points[-1][1] > points[-2][1] else -1
        self._parts.append(f"<path d='M{path}' fill='none' stroke='{self.colours.quiet}' stroke-width='2'/>")
        self._parts.append(
            f"<path d='M{x - 6:g} {y - 9 * down:g} L{x:g} {y:g} L{x + 6:g} {y - 9 * down:g}' fill='none' "
            f"stroke='{self.colours.quiet}' stroke-width='2'/>"
        )

    def tokens(self, x: float, y: float, masked: Sequence[bool], colour: str, size: float = 15) -> None:
        """Draw a row of tokens; a masked one is an empty frame."""
        for place, empty in enumerate(masked):
            fill = f"fill='none' stroke='{self.colours.edge}'" if empty else f"fill='{colour}' stroke='{colour}'"
            self._parts.append(
                f"<rect x='{x + place * (size + 4):g}' y='{y:g}' width='{size:g}' height='{size:g}' rx='3' {fill}/>"
            )

    def wave(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a waveform as upright strokes around y."""
        random, strokes = Random(3), []
        for at in range(0, int(width), 6):
            # Four syllables that swell and fall.
            swell = abs(((at / width * 4) % 1) - 0.5) * -2 + 1
            reach = max(1.5, height / 2 * swell * (0.45 + 0.55 * random.random()))
            strokes.append(f"M{x + at:g} {y - reach:.1f} V{y + reach:.1f}")
        self._parts.append(f"<path d='{' '.join(strokes)}' stroke='{colour}' stroke-width='3' stroke-linecap='round'/>")

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([*self._parts, "</svg>", ""])


def masks(steps: Sequence[int]) -> list[list[bool]]:
    """Return which of `FRAMES` tokens are masked before each of these steps; what was kept stays."""
    order = Random(7).sample(range(FRAMES), FRAMES)
    return [[place in order[: num_masked(FRAMES, step, STEPS)] for place in range(FRAMES)] for step in steps]


def system(colours: Colours) -> str:
    """Draw Metis from its inputs to the waveform."""
    drawing = Drawing(760, 800, colours, "Metis: condition and prompt become SSL tokens, acoustic tokens, a waveform")
    names = {
        "tts": ("Text", "phones"),
        "tse": ("Sound", "mixture, noise,", "another voice"),
        "l2s": ("Lips", "of a silent video"),
    }
    assert set(names) <= set(TASKS)
    inputs = {"TTS": names["tts"], "TSE, SE, VC": names["tse"], "L2S": names["l2s"]}
    inputs["all but SE"] = ("Prompt", "3 to 10 s of the", "wanted voice")
    for number, (tag, lines) in enumerate(inputs.items()):
        drawing.box(10 + 188 * number, 10, 176, 94, *lines)
        drawing.arrow((56 + 188 * number, 104), (56 + 188 * number, 140))
        drawing.text(122 + 188 * number, 128, tag, 17, quiet=True)
    drawing.box(10, 142, 740, 214, "")
    drawing.text(380, 174, "Stage 1: masked transformer, pre-trained without conditions", bold=True)
    drawing.text(380, 200, "fine-tuned for a task in full or by LoRA; guesses all, keeps the surest", 18, quiet=True)
    shown = (0, 5, 8, STEPS)
    for row, (step, mask) in enumerate(zip(shown, masks(shown), strict=True)):
        known = FRAMES - sum(mask)
        drawing.text(90, 236 + 32 * row, "start" if not step else f"step {step}", 18, quiet=True)
        drawing.tokens(160, 222 + 32 * row, mask, colours.ssl)
        drawing.text(690, 236 + 32 * row, f"{known} of {FRAMES}", 18, quiet=True)
    drawing.arrow((380, 356), (380, 396))
    drawing.text(545, 383, "SSL tokens, 50 a second: what is said", 18, quiet=True)
    drawing.box(10, 398, 740, 192, "")
    drawing.text(380, 430, "Stage 2: the same, one quantizer after another", bold=True)
    drawing.text(380, 456, "shared by all tasks; the prompt says whose voice it is", 18, quiet=True)
    for row in range(QUANTIZERS):
        drawing.text(90, 490 + 26 * row, f"layer {row + 1}", 18, quiet=True)
        later = masks((7,))[0] if row == QUANTIZERS - 1 else [False] * FRAMES
        drawing.tokens(160, 476 + 26 * row, later, colours.acoustic)
    drawing.arrow((380, 590), (380, 630))
    drawing.text(560, 617, "acoustic tokens: how it sounds", 18, quiet=True)
    drawing.box(10, 632, 740, 62, "Acoustic codec: decoder")
    drawing.arrow((380, 694), (380, 726))
    drawing.wave(130, 760, 500, 60, colours.acoustic)
    drawing.text(690, 766, "24 kHz", 18, quiet=True)
    return drawing.svg()


def unmasking(colours: Colours) -> str:
    """Draw how many tokens each step of a decoding leaves masked, by the schedule γ(t) = sin(πt/2)."""
    drawing = Drawing(760, 60 + 32 * (STEPS + 1), colours, f"What {STEPS} steps of decoding leave masked")
    drawing.text(380, 30, f"{FRAMES} tokens, {STEPS} steps: few at first, many at the end", bold=True)
    for step, mask in enumerate(masks(range(STEPS + 1))):
        drawing.text(90, 68 + 32 * step, f"after {step}", 18, quiet=True)
        drawing.tokens(160, 54 + 32 * step, mask, colours.ssl)
        drawing.text(690, 68 + 32 * step, f"{sum(mask)} masked", 18, quiet=True)
    return drawing.svg()


def pictures() -> dict[Path, str]:
    """Return the text of every picture by its file."""
    drawn = {"system": system, "unmasking": unmasking}
    return {
        FOLDER / f"{name}-{page}.svg": draw(colours) for name, draw in drawn.items() for page, colours in PAGES.items()
    }


if __name__ == "__main__":
    for path, svg in pictures().items():
        path.write_text(svg, encoding="utf-8")
        print(path)
