"""How an edit is made from an item of the benchmark: the published protocol, and our own settings per kind of edit.

    steps, guidance, seed   of the run
    align                   "auto", "refine" or "replace": the function that makes the cross-attention edit
    cross, self             the parts of the schedule in which maps are injected
    blend                   "words": local blend on the annotated words; "mask": on the item's mask; None
    factor                  of the target's blend word
    reweight                the part of the schedule in which factors act
"""
import numpy as np
from PIL import Image

import p2p_min as p2p
from p2p_min.align import tokens_of

PUBLISHED = dict(steps=50, guidance=7.5, seed=1234, align="refine", cross=0.4, self=0.6, blend="words", factor=2.0,
                 reweight=0.4)                 # in the published code, factors act where maps are injected only
OURS = dict(steps=50, guidance=5.0, seed=0, align="auto", cross=0.8, self=0.4, blend=None, factor=1.0, reweight=1.0)
PRESETS = dict(ours=OURS, published=PUBLISHED)
# Chosen on 56 further scenes, eight of each kind, inverted by direct: what the judge reads first, then the background.
BY_KIND = dict(ours=dict(
    object=dict(cross=0.2, self=0.6, blend="words"),
    colour=dict(cross=0.7, self=0.8, blend="words"),
    background=dict(cross=0.6, self=0.0),
    style=dict(cross=0.2, self=0.2),
    size=dict(cross=0.2, self=0.0),
    phrase=dict(cross=0.8, self=0.0, blend="words"),
    fluff=dict(cross=1.0)))


def settings(preset, kind, steps=None):
    """Of a preset for a kind of edit; `steps` overrides its own."""
    found = PRESETS[preset] | BY_KIND.get(preset, {}).get(kind, {})
    return found if steps is None else found | dict(steps=steps)


def describe(preset, steps=None):
    """In words, what all kinds of edits have in common, and what differs."""
    common = settings(preset, None, steps)
    text = "{steps} steps, guidance {guidance:g}, {align}, cross {cross:g}, self {self:g}".format(**common)
    text += f", blend {common['blend']}" * bool(common["blend"])
    text += f", blend word × {common['factor']:g}" * (common["factor"] != 1)
    other = [f"{kind} " + ", ".join(f"{name} {value}" for name, value in own.items())
             for kind, own in BY_KIND.get(preset, {}).items() if own]
    return text + "".join(f"; {each}" for each in other)


def arguments(tokenizer, item, mask, settings):
    """What prompt_to_prompt takes of an item besides the inversion; what of the annotation was skipped, as lines."""
    prompts, there, skipped = item.prompts, list(item.words), []
    for i, (prompt, word) in enumerate(zip(prompts, item.words)):
        try:
            if word is not None:
                tokens_of(tokenizer, prompt, word)
        except ValueError:
            there[i] = None
            skipped.append(f"{word!r} is not in {prompt!r}")
    factors = {there[1]: settings["factor"]} if there[1] and settings["factor"] != 1 else {}
    factors |= item.factors
    edit = getattr(p2p, settings["align"])(tokenizer, prompts, settings["cross"])
    if factors:
        edit = p2p.reweight(tokenizer, prompts, factors, edit, settings["reweight"])
    blend = None
    if settings["blend"] == "mask":
        blend = p2p.LocalBlend(tokenizer, prompts, None, mask=Image.fromarray(mask.astype(np.uint8) * 255))
    elif settings["blend"] == "words" and any(there):
        blend = p2p.LocalBlend(tokenizer, prompts, there)
    return dict(cross_edit=edit, self_edit=p2p.self_replace(settings["self"]), blend=blend, steps=settings["steps"],
                guidance=settings["guidance"], seed=settings["seed"]), skipped
