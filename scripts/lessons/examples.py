"""The examples that scripts/paper.py and lesson 7 draw: the paper's, as far as Stable Diffusion can, and the same for
the toy's words.
"""
from pathlib import Path
from typing import NamedTuple

import p2p_min as p2p


class Example(NamedTuple):
    name: str                          # of its file
    title: str
    source: str
    targets: tuple = ()
    cross: float = 0.8                 # the parts of the schedule in which maps are injected
    self_: float = 0.4
    blend: tuple = ()                  # local editing: the words, one for each prompt
    fader: str = ""                    # re-weighting: this word of the source times FACTORS, a target for each
    word: str = ""                     # whose map is shown step by step

    @property
    def prompts(self):
        return [self.source, *(self.targets or [self.source] * len(FACTORS) * bool(self.fader))]

    def edits(self, tokenizer):
        """What `prompt_to_prompt` takes besides."""
        if self.fader:
            return dict(cross_edit=p2p.reweight(tokenizer, self.prompts, [{self.fader: c} for c in FACTORS]))
        return dict(cross_edit=p2p.auto(tokenizer, self.prompts, self.cross), self_edit=p2p.self_replace(self.self_),
                    blend=p2p.LocalBlend(tokenizer, self.prompts, self.blend) if self.blend else None)

    def labels(self):
        """What tells each target from the others."""
        if self.fader:
            return [f"{self.fader} × {c}" for c in FACTORS]
        known = set(self.source.split())
        return [" ".join(word for word in target.split() if word not in known) for target in self.targets]


FACTORS = (-2, -1, 0, 1, 2)

BICYCLE, CASTLE = "a photo of a cat riding on a bicycle", "a castle next to a river"
STABLE_DIFFUSION = dict(
    settings=dict(steps=50, guidance=7.5),
    examples=(
        Example("word_swap", "Word swap", BICYCLE,
                ("a photo of a cat riding on a car", "a photo of a dog riding on a bicycle")),
        Example("row_of_swaps", "Word swap: one layout, many things", "a lemon cake",
                tuple(f"a {kind} cake" for kind in ("chocolate", "pumpkin", "pasta", "brick"))),
        Example("added_phrase", "Added phrase: a style", CASTLE,
                (f"children drawing of {CASTLE}", f"charcoal drawing of {CASTLE}")),
        Example("added_words", "Added phrase: words", "a car on the side of the street",
                ("an old crushed car on the side of the street", "a car on the side of the snowy street")),
        Example("local_edit", "Local editing", "a painting of a squirrel eating a cherry",
                ("a painting of a cat eating a cherry",), blend=("squirrel", "cat")),
        Example("reweighting", "Re-weighting, the fader", "my fluffy bunny doll", fader="fluffy"),
        Example("maps", "What the words attend to", "a furry bear watching a bird", word="bird"),
        Example("tau", "When injection ends", BICYCLE, ("a photo of a cat riding on a motorcycle",)),
    ))
TOY = dict(
    settings=dict(steps=50, guidance=5.0),
    examples=(
        Example("word_swap", "Word swap", "a ball on the grass", ("a cake on the grass",), 0.6),
        Example("row_of_swaps", "Word swap: one layout, many things", "a red car in the snow",
                tuple(f"a red {kind} in the snow" for kind in ("boat", "house", "flower", "butterfly")), 0.6),
        Example("added_phrase", "Added phrase: a style", CASTLE, (f"children drawing of {CASTLE}",), 0.6),
        Example("added_words", "Added phrase: words", "a tree on the grass",
                ("a blossom tree on the grass", "a big yellow tree on the grass"), 0.6),
        Example("local_edit", "Local editing", "a red car on the beach", ("a blue car on the beach",), 0.6,
                blend=("car", "car")),
        Example("reweighting", "Re-weighting, the fader", "a fluffy red ball", fader="fluffy"),
        Example("maps", "What the words attend to", "a red car next to a river", word="car"),
        Example("tau", "When injection ends", "a ball on the grass", ("a cake on the grass",), 0.6),
    ))


def is_toy(model):
    return Path(model.path).parts[-2:] == ("weights", "toy")


def table_of(model):
    """The table in the model's own words."""
    return TOY if is_toy(model) else STABLE_DIFFUSION
