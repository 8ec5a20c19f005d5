"""Local blend: outside a mask computed from the blend words' maps, a target keeps the source's latents.

The paper's "Local Editing": the mask is where either prompt attends to its blend word.
"""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .align import tokens_of
from .checks import check_prompts, is_number, must
from .pictures import to_rgb


class LocalBlend:
    """Keeps a target's picture like the source's outside the region of `words`, and outside a mask of your own.

    words      one entry per prompt, source first: a word or phrase, a list of them, or None to use only the other
               prompt's mask; None instead of a list: only `mask`
    subtract   like words: what is removed from the mask again; None: nothing
    start      the fraction of the schedule, counted from pure noise, after which blending begins
    threshold  for the maps, scaled to a maximum of 1: a number, or a pair (for words, for subtract)
    mask       a PIL picture with the run's aspect ratio, white where the picture may change; grey edges blend
    It has no state: `begin` returns the functions of one run. Raises ValueError for what cannot be.
    """
    def __init__(self, tokenizer, prompts, words, subtract=None, start=0.2, threshold=0.3, mask=None):
        must(is_number(start) and 0 <= start <= 1, "start", "a fraction of the schedule from 0 to 1", start)
        pair = threshold if isinstance(threshold, (tuple, list)) else (threshold, threshold)
        must(len(pair) == 2 and all(is_number(x) and 0 <= x <= 1 for x in pair),
             "threshold", "a number from 0 to 1, or a pair of them", threshold)
        self.start, (self.threshold, self.threshold_subtract) = start, map(float, pair)
        self.prompts = prompts and list(prompts)           # a mask alone needs none
        # Where the picture may change: at words, inside a mask, or both.
        if words is None and (mask is None or subtract is not None):
            raise ValueError("subtract needs words: there is nothing to subtract from" if subtract is not None else
                             "give words, or a mask")
        self.words = None if words is None else token_columns(tokenizer, prompts, words, "words")
        self.subtract = None if subtract is None else token_columns(tokenizer, prompts, subtract, "subtract")
        self.mask = None if mask is None else to_rgb(mask, "black").convert("L")
        if mask is not None and self.mask.getextrema()[1] < 2:     # 1 of 255: an array of 0 and 1
            raise ValueError("the mask has no white, so nothing may change; white is 255 (multiply an array of 0 and 1 "
                             "by 255)")

    def begin(self, sizes, latent_size):
        """A look at the maps (None: it needs none), and blend(z, z_star, t) -> z_star, for one run.

        sizes, latent_size  the (height, width) of the attention maps, and of the latents
        """
        given = None if self.mask is None else mask_at_latents(self.mask, latent_size)
        # The maps nearest to a quarter of the latents, at least 16 a side, are the ones to look at.
        wanted = max(min(latent_size) / 4, 16)
        size = min(sizes, key=lambda s: abs(min(s) - wanted))
        sums = {}                                          # "words", "subtract" -> (prompts, height, width)

        def look(M, M_star, M_hat, t):
            """Adds the maps of the blend's words, in one layer at one step."""
            maps = torch.cat([M[None], M_hat]).float().mean(1)                       # (prompts, height, width, keys)
            # A sum is as good as an average, because the mask is divided by its maximum.
            for name, chosen in (("words", self.words), ("subtract", self.subtract)):
                if chosen is not None:
                    sums[name] = sums.get(name, 0) + torch.einsum("nyxk,nk->nyx", maps, chosen.to(maps))

        def blend(z, z_star, t):
            """z (1, 4, height, width), z_star (targets, 4, height, width) at the end of the step that began at t."""
            if 1 - t < self.start - 1e-6:
                return z_star
            if self.words is not None:
                if not sums:
                    raise ValueError("the blend saw no maps: a wrapper of model.unet must pass its `looks` on")
                mask = thresholded(sums["words"], True, z.shape[-2:], self.threshold)
                if self.subtract is not None:
                    mask = mask & ~thresholded(sums["subtract"], False, z.shape[-2:], self.threshold_subtract)
                z_star = torch.where(mask, z_star, z)
            return z_star if given is None else z.lerp(z_star, given.to(z))

        look.active = lambda height, width, t: (height, width) == tuple(size)
        return (None if self.words is None else look), blend


def token_columns(tokenizer, prompts, words, name):
    """(prompts, tokens): 1 at the tokens of each prompt's words."""
    check_prompts(prompts)
    must(isinstance(words, (list, tuple)) and len(words) == len(prompts)
         and (name == "subtract" or all(word is None or word for word in words)), name,
         f"a list with one entry for each of the {len(prompts)} prompts, each a word or a list of words", words)
    chosen = torch.zeros(len(prompts), tokenizer.model_max_length, dtype=torch.float32)
    for i, (prompt, of_prompt) in enumerate(zip(prompts, words)):
        if of_prompt is None:
            continue
        for word in of_prompt if isinstance(of_prompt, (list, tuple)) else [of_prompt]:
            chosen[i, tokens_of(tokenizer, prompt, word)] = 1
    for prompt, of_target in zip(prompts[1:], chosen[1:]):
        if name == "words" and not (chosen[0].any() or of_target.any()):
            raise ValueError(f"{name} has no word for {prompt!r}, nor for the source, so that target could not change")
    return chosen


def mask_at_latents(mask, latent_size):
    """The share of white in each latent cell, (height, width). Raises ValueError if the aspect ratio differs."""
    height, width = latent_size
    if mask.width * height != mask.height * width:
        raise ValueError(f"the mask is {mask.width} × {mask.height}; it must have the aspect ratio of the picture, "
                         f"{width}:{height}")
    return torch.from_numpy(np.array(mask.resize((width, height), Image.Resampling.BOX))).float() / 255


def thresholded(maps, pool, size, threshold):
    """Maps (prompts, h, w) as masks (targets, 1, height, width): where the source's or the target's map is strong."""
    maps = maps[:, None]
    if pool:
        maps = F.max_pool2d(maps, 3, stride=1, padding=1)
    maps = F.interpolate(maps, size, mode="nearest")
    mask = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12) > threshold
    return mask[:1] | mask[1:]
