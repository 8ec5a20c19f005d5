"""Where a run's pictures attend to its words: its cross-attention maps, seen by a look, which changes nothing."""
import torch

from ..align import tokens_of, words
from ..checks import check_prompts, must
from ..edits import auto
from ..networks.text import spans

SMALL = 32 * 32                                # pixels: larger maps are kept on average only


class Recorder:
    """Holds the cross-attention maps of the last run of these prompts that it was given to, as `recorder=`.

    prompts   those of the run, source first; one alone is fine
    per_step  whether to keep each step's maps too (of at most 32 × 32 pixels, averaged over heads), and its predictions
    layers    only those whose names begin so: "up_blocks.2", or one of `model.unet.attention_names("cross")`; "": all
    The run is the same to the bit as without (to rounding, where an edit has `attend`), and begins the recorder anew.
    sizes, size  the (height, width) of the maps seen, largest first; the one that `maps` gives if none is named
    times        the t of every step kept, falling
    predictions  {t: z_0, (prompts, 4, height/f, width/f)}: the clean latents that each step predicts
    edits        the run's cross_edit, self_edit and blend
    """
    def __init__(self, tokenizer, prompts, per_step=False, layers=""):
        check_prompts(prompts)
        self.tokenizer, self.prompts, self.per_step, self.layers = tokenizer, list(prompts), per_step, layers
        self.keys = max(len(spans(tokenizer, prompt)) for prompt in prompts)             # beyond them is padding
        self.begin()

    def begin(self, edits=(None,) * 3):
        """Forgets the run before."""
        self.edits = edits
        self.steps = set()                                 # the t of all steps seen
        self.seen = {}                                     # (size, t or None) -> the sum of maps, and of how many
        self.predictions = {}

    def watch(self, z_0, t):
        """Keeps a step's prediction."""
        if self.per_step:
            self.predictions[t] = z_0.cpu()

    def look(self, M, M_star, M_hat, t):
        """Adds the maps of one layer at one step: (1 + 2 targets, heads, height, width, keys)."""
        maps = torch.cat([each[..., :self.keys].float() for each in (M[None], M_star, M_hat)])
        size, kept = tuple(M.shape[1:3]), {None: maps}
        if self.per_step and size[0] * size[1] <= SMALL:
            kept[t] = maps.mean(1, keepdim=True).cpu()
        self.steps.add(t)
        for time, each in kept.items():
            total, calls = self.seen.get((size, time), (0, 0))
            self.seen[size, time] = total + each, calls + 1

    @property
    def sizes(self):
        return sorted({size for size, _ in self.seen}, reverse=True)

    @property
    def size(self):
        """The size that shows objects best: its shorter side nearest to 16, as the paper's figures have it."""
        return min(self.sizes, key=lambda size: abs(min(size) - 16))

    @property
    def times(self):
        return sorted({t for _, t in self.seen} - {None}, reverse=True)

    def words(self, prompt=0):
        """The different words of a prompt, in order."""
        return list(dict.fromkeys(piece.text for piece in words(self.tokenizer, self.prompts[prompt])))

    def partners(self, prompt, chosen):
        """The source's words that `auto` aligns with chosen words of a target: of two equal ones "red#1", "red#2"."""
        tokenizer, pair = self.tokenizer, [self.prompts[0], self.prompts[prompt]]
        texts = [piece.text for piece in words(tokenizer, pair[0])]
        names = [
            f"{text}#{texts[:i + 1].count(text)}" if texts.count(text) > 1 else text
            for i, text in enumerate(texts)]
        tokens = [token for word in chosen for token in tokens_of(tokenizer, pair[1], word)]
        A = auto(tokenizer, pair).A[0][:, tokens]
        return [name for name in names if A[tokens_of(tokenizer, pair[0], name)].any()]

    def maps(self, word, prompt=0, *, edited=True, size=None, per_step=False, per_head=False):
        """How much each pixel attends to a word: an array (height, width), the average over layers, heads and steps.

        word      a word or phrase of the prompt, whose tokens' maps are summed; "red#2"; "<start>"; "<end>"
        prompt    0 for the source, 1 for the first target, ...
        edited    of a target: M_hat, which it used; False: M_star, its own, before the edit
        size      (height, width) of the maps; None: `size`
        per_step  (steps, height, width), as `times`
        per_head  (heads, height, width), of one layer alone: head h of another layer is another head
        Raises ValueError for a word that the prompt does not have, and for what was not recorded.
        """
        if not self.seen:
            raise ValueError("nothing is recorded yet: give recorder= to a run")
        targets = len(self.prompts) - 1
        must(prompt in range(targets + 1), "prompt", f"a number from 0, the source, to {targets}", prompt)
        if per_step and (per_head or not self.per_step):
            raise ValueError("steps are kept on average over heads; give one of per_step and per_head" if per_head else
                             "no single steps were kept: build the recorder with per_step=True")
        tokens = tokens_of(self.tokenizer, self.prompts[prompt], word)
        row = prompt + targets * bool(edited and prompt)
        # The sizes that were kept, and the maps of one of them.
        times = self.times if per_step else [None]
        sizes = [each for each in self.sizes if (each, *times[:1]) in self.seen]
        size = self.size if size is None else tuple(size)
        must(size in sizes, "size", f"one of {sizes}" + " (of larger maps no steps are kept)" * per_step, size)
        kept = [self.seen[size, t] for t in times]
        maps = [total[row][..., tokens].sum(-1) / calls for total, calls in kept]
        if per_head and kept[0][1] > len(self.steps):
            raise ValueError(f"the maps of size {size} are of several layers, whose heads have nothing in common; "
                             'build the recorder with layers= one name of model.unet.attention_names("cross")')
        if not per_head:
            maps = [each.mean(0) for each in maps]
        return (torch.stack(maps) if per_step else maps[0]).cpu().numpy()
