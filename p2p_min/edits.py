"""The paper's edits (section 3.2) as one formula, and the functions that build it.

    M_hat = c · [w · (M A + M* · own) + (1 − w) · M*]      per target token; rows need not sum to 1 afterwards

`CrossEdit` is the bracket: w is 1 while t is inside the token's window, else 0; A and own are its `align.Alignment`.
`Reweight` is the c, in a window of its own. Both say when they are `active`, so that other maps are never computed.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .align import align_refine, align_swap, tokens_of, words
from .attention import edited_map, is_active
from .checks import check_prompts, is_number, is_whole, must, window


def inside(start, end, t):
    """Whether time t lies in the window; the 1e-6 absorbs rounding at the window's ends."""
    return (start - 1e-6 <= 1 - t) & (1 - t < end - 1e-6)


def token_windows(tokenizer, targets, steps):
    """start, end: each (targets, tokens), from one window for all tokens or {"default_": window, word: window}."""
    per_word = dict(steps) if isinstance(steps, dict) else {"default_": steps}
    default = torch.tensor(window(per_word.pop("default_", 1.0)), dtype=torch.float32)
    windows = default.repeat(len(targets), tokenizer.model_max_length, 1)
    for word, of_word in per_word.items():
        positions = [tokens_of(tokenizer, target, word, required=len(targets) == 1) for target in targets]
        if not any(positions):
            raise ValueError(f"{word!r} does not occur in any target prompt: {', '.join(map(repr, targets))}")
        for i, tokens in enumerate(positions):
            windows[i, tokens] = torch.tensor(window(of_word), dtype=torch.float32)
    return windows[..., 0], windows[..., 1]


def windows_of(start, end):
    """The distinct windows of many tokens, as pairs, which are cheap to check at every layer."""
    return sorted(set(zip(start.flatten().tolist(), end.flatten().tolist())))


@dataclass(frozen=True, eq=False)
class CrossEdit:
    """The bracket above. A (targets, source tokens, tokens); own, start, end (targets, tokens)."""
    A: torch.Tensor
    own: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    prompts: list                                          # that it was built for; a run has the same

    def __post_init__(self):                               # not cached_property: torch.compile stops at it
        object.__setattr__(self, "windows", windows_of(self.start, self.end))

    def active(self, height, width, t):
        return any(inside(start, end, t) for start, end in self.windows)

    def __call__(self, M, M_star, t):
        check(self.own, M_star)
        is_inside = inside(self.start, self.end, t)
        A, own, w = (x.to(M_star) for x in (self.A, self.own, is_inside))
        keep = (w * own + 1 - w)[:, None, None, None]      # w multiplies the small tensors: maps are large
        return torch.einsum("hyxs,nst->nhyxt", M, A * w[:, None]) + M_star * keep


@dataclass(frozen=True, eq=False)
class Reweight:
    """c times what `base` returns (None: M_star), token by token; c, start, end (targets, tokens)."""
    base: object
    c: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    prompts: list

    def __post_init__(self):
        object.__setattr__(self, "windows", windows_of(self.start[self.c != 1], self.end[self.c != 1]))

    def active(self, height, width, t):
        return any(inside(start, end, t) for start, end in self.windows) or is_active(self.base, (height, width), t)

    def __call__(self, M, M_star, t):
        check(self.c, M_star)
        c = torch.where(inside(self.start, self.end, t), self.c, 1).to(M_star)
        return edited_map(self.base, M, M_star, t) * c[:, None, None, None]


@dataclass(frozen=True)
class SelfReplace:
    """The source's self-attention, in maps of at most `max_pixels` pixels."""
    start: float
    end: float
    max_pixels: int

    def active(self, height, width, t):
        return height * width <= self.max_pixels and inside(self.start, self.end, t)

    def __call__(self, M, M_star, t):
        return M.expand_as(M_star) if self.active(*M.shape[1:3], t) else M_star

    def attend(self, q, k, v, size, t):
        """The same without computing the map, which is large: M V* is attention with the source's queries and keys."""
        return F.scaled_dot_product_attention(q[:1].expand_as(q), k[:1].expand_as(k), v)


def check(per_token, M_star):
    """Raises ValueError if an edit was built for other prompts than those of the maps."""
    targets, tokens = per_token.shape
    n = M_star.shape[0]
    keys = M_star.shape[-1]
    if (targets, tokens) != (n, keys):
        raise ValueError(f"this edit was built for {targets} targets and {tokens} tokens; the maps have {n} and {keys}")


def build(tokenizer, prompts, steps, align):
    check_prompts(prompts, targets=1)
    source, *targets = prompts
    alignments = [align(tokenizer, source, target) for target in targets]
    A, own = map(torch.stack, zip(*alignments))
    start, end = token_windows(tokenizer, targets, steps)
    return CrossEdit(A, own, start, end, list(prompts))


def replace(tokenizer, prompts, steps=0.8):
    """Word swap: M_hat = M for the first `steps` of the schedule (paper: "Word Swap", with tau = 1 - steps).

    prompts  [source, target, ...], each target with as many words as the source
    steps    a fraction of the schedule, a window (from, to), or {"default_": 0.8, "lion": 0.4} per target word, where
             words that are not named have "default_", or else 1.0
    A swapped word's maps are summed and shared equally among its new tokens; one to one if the counts are equal.
    Raises ValueError for unequal word counts, a missing word, a prompt that is too long, or an invalid window.
    """
    return build(tokenizer, prompts, steps, align_swap)


def refine(tokenizer, prompts, steps=0.8):
    """Added phrase: words that are in both prompts take the source's maps, new words keep their own.
    Paper: "Adding a New Phrase". Arguments and errors as for `replace`, but the word counts may differ."""
    return build(tokenizer, prompts, steps, align_refine)


def auto(tokenizer, prompts, steps=0.8):
    """For each target, `replace` if it has as many words as the source, otherwise `refine`."""
    def align(tokenizer, source, target):
        equal = len(words(tokenizer, source)) == len(words(tokenizer, target))
        return (align_swap if equal else align_refine)(tokenizer, source, target)
    return build(tokenizer, prompts, steps, align)


def reweight(tokenizer, prompts, weights, base=None, steps=1.0):
    """Attention re-weighting: the maps of chosen words times c (paper: "Attention Re-weighting"; there c in [-2, 2]).

    weights  {word or phrase of the target: c}, or a list with one such dict per target
    base     the edit to re-weight; None: the source's maps, aligned as by `auto`, in the same window
    steps    when it acts, as for `replace`; outside this window, the result of `base` is unchanged
    Raises ValueError for a word that is not in its target, and for weights that are not finite numbers.
    """
    check_prompts(prompts, targets=1)
    targets = prompts[1:]
    weights = [weights] * len(targets) if isinstance(weights, dict) else weights
    must(isinstance(weights, (list, tuple)) and len(weights) == len(targets)
         and all(isinstance(of_target, dict) for of_target in weights),
         "weights", f"a dict {{word: factor}}, or a list with one for each of {len(targets)} targets", weights)
    c = torch.ones(len(targets), tokenizer.model_max_length, dtype=torch.float32)
    for i, (target, of_target) in enumerate(zip(targets, weights)):
        for word, weight in of_target.items():
            must(is_number(weight), f"the weight of {word!r}", "a finite number in float32", weight)
            c[i, tokens_of(tokenizer, target, word)] = float(weight)
    base = auto(tokenizer, prompts, steps) if base is None else base
    by_prefix = {"": None, **base} if isinstance(base, dict) else {"": base}               # c applies everywhere
    for each in by_prefix.values():
        must(each is None or callable(each), "base", "an edit of maps, with a __call__(M, M_star, t)", each)
    start, end = token_windows(tokenizer, targets, steps)
    edits = {prefix: Reweight(each, c, start, end, list(prompts)) for prefix, each in by_prefix.items()}
    return edits if isinstance(base, dict) else edits[""]


def self_replace(steps=0.4, max_pixels=32 * 32):
    """Self-attention injection: the targets use the source's self-attention maps during `steps`.

    Not in the paper's Algorithm 1; the authors' code does it with Stable Diffusion, and it preserves the layout.
    steps       a fraction of the schedule, or a window (from, to)
    max_pixels  only in maps of at most this many pixels; larger ones hold more texture than layout
    """
    must(is_whole(max_pixels) and max_pixels >= 0, "max_pixels", "a whole number of pixels", max_pixels)
    return SelfReplace(*window(steps), max_pixels)
