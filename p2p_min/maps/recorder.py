"""What the words of a run attend to: its cross-attention maps, watched by an edit that looks and passes on."""
import torch

from ..align import tokens_of, words
from ..networks.text import spans

SMALL = 32 * 32                                # pixels: larger maps are kept on average only


class Recorder:
    """Holds the cross-attention maps of the last run of these prompts.

        recorder = Recorder(model.tokenizer, prompts)
        result = prompt_to_prompt(model, prompts, edit, recorder=recorder)
        recorder.maps("bicycle")

    prompts   those of the run, source first; one alone is fine
    per_step  whether to keep each step's maps too (of at most 32 × 32 pixels, averaged over heads), and its predictions
    layers    only those whose names begin so: "up_blocks.2", or one of `model.unet.attention_names("cross")`; "": all
    The run is the same to the bit as without (to rounding, where an edit has `attend`). The averages do not grow with
    the run. Each run begins the recorder anew.

    sizes, size  the (height, width) of the maps seen, largest first; the one that `maps` gives if none is named
    times        the t of every step kept, falling
    predictions  {t: z_0, (prompts, 4, height/f, width/f)}: the clean latents that each step foresees
    """

    def __init__(self, tokenizer, prompts, per_step=False, layers=""):
        if not isinstance(prompts, (list, tuple)) or not prompts:
            raise ValueError(f"prompts must be a list of texts, the source first, not {prompts!r}")
        self.tokenizer, self.prompts, self.per_step, self.layers = tokenizer, list(prompts), per_step, layers
        self.keys = max(len(spans(tokenizer, prompt)) for prompt in prompts)             # beyond them is padding
        self.begin()

    def begin(self):
        """Forgets the run before."""
        self.t, self.steps, self.seen, self.predictions = None, 0, {}, {}

    def watch(self, z_0, t):
        """Keeps a step's prediction."""
        if self.per_step:
            self.predictions[t] = z_0.cpu()

    def look(self, M, M_star, M_hat, t):
        """Adds the maps of one layer at one step."""
        if len(M_star) + 1 != len(self.prompts):
            raise ValueError(f"this recorder was built for {len(self.prompts)} prompts; the run has {len(M_star) + 1}")
        self.steps += t != self.t
        self.t = t
        size = tuple(M.shape[1:3])
        maps = torch.cat([M[None, ..., :self.keys], M_star[..., :self.keys], M_hat[..., :self.keys]]).float()
        self.add((size, None), maps)                       # (1 + 2 targets, heads, height, width, keys)
        if self.per_step and size[0] * size[1] <= SMALL:
            self.add((size, t), maps.mean(1, keepdim=True).cpu())

    def add(self, key, maps):
        total, calls = self.seen.get(key, (0, 0))
        self.seen[key] = total + maps, calls + 1

    @property
    def sizes(self):
        return sorted({size for size, _ in self.seen}, reverse=True)

    @property
    def size(self):
        """The size that shows objects best: its shorter side nearest to 16, as the paper's figures have it."""
        return min(self.sizes, key=lambda size: abs(min(size) - 16))

    @property
    def times(self):
        return sorted({t for _, t in self.seen if t is not None}, reverse=True)

    def words(self, prompt=0):
        """The different words of a prompt, in order."""
        return list(dict.fromkeys(piece.text for piece in words(self.tokenizer, self.prompts[prompt])))

    def maps(self, word, prompt=0, *, edited=True, size=None, per_step=False, per_head=False):
        """How much each pixel attends to a word: an array (height, width), the average over layers, heads and steps.

        word      a word or phrase of the prompt: the maps of all its tokens, summed; "red#2": of the second "red"
                  alone; "<start>", "<end>": of the tokens before and after all words
        prompt    0 for the source, 1 for the first target, ...
        edited    of a target: M_hat, which it used; False: M_star, its own, before the edit
        size      (height, width) of the maps; None: `size`
        per_step  (steps, height, width), as `times`
        per_head  (heads, height, width), of one layer alone: head h of another layer is another head
        Raises ValueError for a word that the prompt does not have, and for what was not recorded.
        """
        if not self.seen:
            raise ValueError("nothing is recorded yet: give recorder= to a run")
        if prompt not in range(len(self.prompts)):
            raise ValueError(f"prompt must be a number from 0, the source, to {len(self.prompts) - 1}, not {prompt!r}")
        if per_step and (per_head or not self.per_step):
            raise ValueError("steps are kept on average over heads; give one of per_step and per_head" if per_head else
                             "no single steps were kept: build the recorder with per_step=True")
        tokens = tokens_of(self.tokenizer, self.prompts[prompt], word)
        row = prompt + len(self.prompts) - 1 if prompt and edited else prompt
        size = self.size if size is None else tuple(size)
        keys = [(size, t) for t in self.times] if per_step else [(size, None)]
        if not keys or keys[0] not in self.seen:
            there = [each for each in self.sizes if not per_step or each[0] * each[1] <= SMALL]
            raise ValueError(f"no {'steps' if per_step else 'maps'} of {listed([size])} were kept; there are "
                             f"{listed(there)}")
        if per_head and self.seen[keys[0]][1] > self.steps:
            raise ValueError(f"the maps of {listed([size])} are of several layers, whose heads have nothing in common; "
                             'build the recorder with layers= one name of model.unet.attention_names("cross")')
        found = [self.seen[key][0][row][..., tokens].sum(-1) / self.seen[key][1] for key in keys]
        if per_head:
            return found[0].cpu().numpy()
        maps = torch.stack([each.mean(0) for each in found]).cpu().numpy()
        return maps if per_step else maps[0]


def listed(sizes):
    return ", ".join(f"{height} × {width}" for height, width in sizes) or "none"
