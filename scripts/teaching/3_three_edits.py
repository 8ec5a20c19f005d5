# %% [markdown]
# # 3. Three edits
#
# Section 3.2 of the paper: word swap, added phrase, re-weighting. Each is a function of the
# source's map M, the target's own map M_star, and the time t. Each takes a few lines.
#
# We write them ourselves, and ask each time whether the library means the same. Your functions
# make the pictures; until one is right, the library's stands in for it.

# %%
import os

import numpy as np
import torch

import p2p_min as p2p
from p2p_min.align import tokens_of
from p2p_min.lessons import checks_3 as check
from p2p_min.lessons.figures import (
    known,
    matrix,
    outline,
    overlap,
    roles,
    show,
    token_counts,
    tokens,
    word_list,
)

torch.set_num_threads(1)     # so small a model gains little from more, and loses on a busy machine
STEPS = int(os.environ.get("LESSON_STEPS", 20))                    # of the denoising
SEEDS = range(int(os.environ.get("LESSON_SEEDS", 3)))              # the first, not cherry-picked
TAU = 0.2                    # maps are injected while t > TAU: for the first 80 % of the steps
model = p2p.load(device="cpu")               # the natural place for so small a model, GPU or not


def sample(prompts, edit=None, seed=SEEDS[0]):
    """The pictures of source and targets, from one noise."""
    return p2p.prompt_to_prompt(model, prompts, edit, seed=seed, steps=STEPS, guidance=5.0).images


def table(title, names, rows, digits=2):
    """One line for each kind of target: its number for each seed, and their mean."""
    print(f"{title:34}", *(f"seed {seed}" for seed, _ in zip(SEEDS, rows)), "  mean")
    for name, numbers in zip(names, np.transpose(rows)):
        print(f"{name:34}", *(f"{x:6.{digits}f}" for x in numbers), f"{numbers.mean():6.{digits}f}")


# %% [markdown]
# ## How can we tell that two Edits are the same?
#
# An Edit is a function. Two Edits are the same if they give the same answer to the same maps. We
# ask both about random maps, at each time of a run of 50 steps.

# %%
def check_equal(mine, library, targets=1):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1 + targets, 2, 4, 4, 77, generator=generator, dtype=torch.float32)
    M, M_star = maps[0], maps[1:]
    times = [(50 - i) / 50 for i in range(50)]
    apart = max((mine(M, M_star, t) - library(M, M_star, t)).abs().max().item() for t in times)
    print(f"largest difference between our Edit and the library's: {apart:.0e}")


# %% [markdown]
# ## Word swap: does the map of "tree" fit "castle"?
#
# Here are three trees. (Later, try other prompts: words of one token, as many in both, and a strong
# colour. Without one there is no outline, and the overlap is nan: not measured.)

# %% shown
P, P_star = "a green tree", "a green castle"
known(model, P, P_star)
show("3_trees", [sample([P], seed=seed)[0] for seed in SEEDS], [P] * len(SEEDS), columns=3)

# %% [markdown]
# "castle" stands where "tree" stood, so the source's map needs no change:
#
# $$\hat M = M \ \text{ if } t > \tau, \ \text{ else } M^*$$
#
# The map says *where*. The target's values V* say *what*. What will the castle look like?

# %% predict expect_swap
expect_swap = ""

# %%
def swap(M, M_star, t):
    return M.expand_as(M_star) if t > TAU else M_star


def only_second(M, M_star, t):                                     # the first target is left alone
    return torch.cat([M_star[:1], swap(M, M_star[1:], t)])


token_counts(model.tokenizer, P, P_star)           # says so if the words do not fit one to one
check_equal(swap, p2p.auto(model.tokenizer, [P, P_star], steps=1 - TAU))
runs = [sample([P, P_star, P_star], only_second, seed) for seed in SEEDS]
swaps = [[overlap(source, image) for image in targets] for source, *targets in runs]
captions = [caption for own, ours in swaps for caption in
            (P, f"{P_star}, own maps: {own:.2f}", f"the source's maps: {ours:.2f}")]
show("3_swap", [image for run in runs for image in run], captions, columns=3)
table("overlap with the source", ["own maps", "the source's maps"], swaps)

# %% [markdown] teacher
# **Answer.** A castle, where the tree stands and nearly as large. (Four seeds: the overlap is 0.26
# with own maps and 0.50 with the source's.)

# %% teacher
from p2p_min.lessons.figures import claim

claim("the overlap is larger with the source's maps in each seed", all(a < b for a, b in swaps))

# %% [markdown]
# ## Should the new word keep its own map?
#
# It sounds reasonable: "castle" is new, so its column could stay M*. All other columns come from
# the source. We compare with the full swap above. What do you expect?

# %% predict expect_own_column
expect_own_column = ""

# %%
castle = tokens_of(model.tokenizer, P_star, roles(word_list(model, P_star))[2])    # of the thing
totals = []                                                        # what each pixel shares out


def all_but_castle(M, M_star, t):
    M_hat = swap(M, M_star, t).clone()
    M_hat[..., castle] = M_star[..., castle]
    if t > TAU and M.shape[1] == 16:
        totals.append(M_hat[0].sum(-1).mean(0))                    # (16, 16), mean over heads
    return M_hat


mixed = [sample([P, P_star], all_but_castle, seed) for seed in SEEDS]
keeps = [overlap(*run) for run in mixed]
cells = [image for run, (_, half) in zip(runs, mixed) for image in (run[0], run[2], half, run[1])]
captions = [caption for row, half in zip(swaps, keeps) for caption in
            (P, f"all of M: {row[1]:.2f}", f"the new word keeps its own: {half:.2f}",
             f"own maps: {row[0]:.2f}")]
show("3_own_column", cells, captions, columns=4)
table("overlap with the source", ["all of M", "the new word keeps its own", "own maps"],
      [[row[1], half, row[0]] for row, half in zip(swaps, keeps)])
back = [[overlap(run[1], run[2]), overlap(run[1], half)] for run, (_, half) in zip(runs, mixed)]
table("overlap with the unedited target", ["all of M", "the new word keeps its own"], back)

# %% [markdown] teacher
# **Answer.** It should not. The result is a fine castle, but it goes back towards the one without
# any edit, and follows the tree less. (Four seeds: the overlap with the tree falls from 0.50 to
# 0.41, that with the unedited castle rises from 0.35 to 0.53.)

# %% teacher
claim("in each seed it follows the tree less, and is nearer to the unedited castle",
      all(half < row[1] for row, half in zip(swaps, keeps)) and all(a < b for a, b in back))

# %% [markdown]
# ## What goes wrong when columns are mixed?
#
# A softmax gives each pixel an attention of exactly 1 to share out over the tokens. What is the
# sum after we have mixed columns of two softmaxes? Where in the picture is it wrong?

# %% predict expect_totals
expect_totals = ""

# %%
worst = max(totals, key=lambda total: (total - 1).abs().max())     # of all steps and layers
least, most = torch.stack(totals).aminmax()
print(f"a pixel shares out between {least:.2f} and {most:.2f}, where 1 is right")
show("3_totals", [mixed[-1][0], mixed[-1][1], torch.ones(16, 16, dtype=torch.float32), worst],
     [P, P_star, "all of M: each pixel shares out 1",
      f"mixed: from {worst.min():.2f} to {worst.max():.2f}"], columns=4)

# %% [markdown] teacher
# **Answer.** From 0.41 to 1.63, and what is wrong lies at tree and castle: there two softmaxes
# disagree. One softmax made all columns of M, so they belong together: M V* is plain attention
# with the source's Q and K.

# %% [markdown]
# ## What if a word has more tokens than the other?
#
# For this tokenizer "bicycle" is two tokens and "car" is one. The rule: the maps of the old word's
# tokens are summed, and the sum is shared equally among the new word's tokens. So no attention
# is lost. For each new token $j$:
#
# $$\hat M_j = \frac{1}{|new|} \sum_{i \,\in\, old} M_i$$
#
# ### Exercise 1: share a word's maps
#
# The official code gets this case wrong: there all later words move to other words' maps.
# (`check.share.hint()` gives a hint; each exercise has two or three.)

# %% exercise share 2
def share(M, old, new):
    # M: (heads, height, width, tokens)   old: list of positions in the source, such as [3, 4]
    # new: list of positions in the target, such as [3]
    # returns the maps of the new word's tokens: (heads, height, width, len(new))
    ...


# %% check share
share_is_right = check.share(share)

# %% [markdown]
# All in one matrix A: a row for each token of the source, a column for each token of the target,
# and in each column what the token takes. Write the columns of "car" and of the end token.

# %% predict expect_A
expect_A = ""

# %%
swapped = ["a big red bicycle", "a big red car"]
known(model, *swapped)
library = p2p.auto(model.tokenizer, swapped, steps=1 - TAU)
A = library.A[0]                                                   # (77 of source, 77 of target)
rows, columns = (tokens(model.tokenizer, prompt) for prompt in swapped)
matrix("3_A_swap", A[:len(rows), :len(columns)], rows, columns, cell=44)
# The word that is swapped, and what all other tokens of the target take.
old_word, new_word = [pair for pair in zip(*(word_list(model, prompt) for prompt in swapped))
                      if pair[0] != pair[1]][-1]
old, new = (tokens_of(model.tokenizer, *pair) for pair in zip(swapped, (old_word, new_word)))
take = A.argmax(0)


def shared_swap(M, M_star, t):
    M_hat = M_star.clone()
    if t > TAU:
        M_hat[:] = M[..., take]
        M_hat[..., new] = share(M, old, new)
    return M_hat


if share_is_right:
    check_equal(shared_swap, library)
images = sample(swapped, shared_swap if share_is_right else library)
show("3_share", images, [swapped[0], f"{swapped[1]}: {overlap(*images):.2f}"])

# %% [markdown] teacher
# **Answer.** "car" takes the sum of both maps of "bicycle": two ones in its column. The end token
# takes the map of the end token, though it stands one place earlier.

# %% [markdown]
# ## Added phrase: which map does each token take?
#
# Now the target has more words, and they stand elsewhere. A(j) is the source's token for the
# target's token j. It is None for a new word, which keeps its own map:
#
# $$\hat M_j = M_{A(j)} \ \text{ if } A(j) \text{ is a token}, \ \text{ else } M^*_j$$
#
# ### Exercise 2: add a phrase

# %% exercise add_phrase 3
def add_phrase(M, M_star, A):
    # M: (heads, height, width, tokens)   M_star: (targets, heads, height, width, tokens)
    # A: list with an entry for each token of the target, such as [0, 1, None, 2, 3]
    # returns M_hat, shaped like M_star; M and M_star stay as they are
    ...


# %% check add_phrase
phrase_is_right = check.add_phrase(add_phrase)

# %% [markdown]
# "a cat" becomes "a blue cat". Write A for its start token, "a", "blue", "cat" and the end token.
# (Padding takes the map at its own position, but never that of a word.)

# %% predict expect_A_of_phrase
expect_A_of_phrase = ""

# %%
P, P_star = "a cat", "a blue cat"
known(model, P, P_star)
library = p2p.refine(model.tokenizer, [P, P_star], steps=1 - TAU)
A = [int(column.argmax()) if column.any() else None for column in library.A[0].T]
rows, columns = (tokens(model.tokenizer, prompt) for prompt in (P, P_star))
print(*(f"{j}: {token} takes {i}" for j, (token, i) in enumerate(zip(columns, A))), sep="\n")
matrix("3_A_phrase", library.A[0, :len(rows), :len(columns)], rows, columns, cell=44)


def phrase(M, M_star, t):
    return add_phrase(M, M_star, A) if t > TAU else M_star


if phrase_is_right:
    check_equal(phrase, library)

# %% [markdown] teacher
# **Answer.** [0, 1, None, 2, 3]: "a" and "cat" find their maps, though "cat" has moved by one. The
# column of "blue" is empty: this word keeps its own map.

# %% [markdown]
# ## Added phrase: is it the same cat?

# %% predict expect_phrase
expect_phrase = ""

# %%
phrase_or_library = phrase if phrase_is_right else library


def second_phrase(M, M_star, t):                                   # the first target is left alone
    return torch.cat([M_star[:1], phrase_or_library(M, M_star[1:], t)])


runs = [sample([P, P_star, P_star], second_phrase, seed) for seed in SEEDS]
kept = [[overlap(source, image) for image in targets] for source, *targets in runs]
captions = [caption for own, ours in kept for caption in
            (P, f"{P_star}, own maps: {own:.2f}", f"the source's maps: {ours:.2f}")]
show("3_phrase", [image for run in runs for image in run], captions, columns=3)
table("overlap with the source", ["own maps", "the source's, for shared words"], kept)

# %% [markdown] teacher
# **Answer.** Nearly: a cat in the same place and of about the same size, now blue. (Four seeds: the
# overlap is 0.23 with own maps and 0.63 with the source's.)

# %% teacher
claim("the overlap is larger with the source's maps in each seed", all(a < b for a, b in kept))

# %% [markdown]
# ## Re-weighting: how much of a word?
#
# The map of one word, j, is multiplied by c. The other columns stay as they are; a row no longer
# sums to 1, on purpose.
#
# $$\hat M_j = c\, M_j$$
#
# ### Exercise 3: re-weight a word

# %% exercise my_reweight 3
def my_reweight(M, word, c):
    # M: (heads, height, width, tokens)   word: the position of one token
    # c: tensor (targets,), a factor for each target
    # returns M_hat: (targets, heads, height, width, tokens); M stays as it is
    ...


# %% check my_reweight
reweight_is_right = check.my_reweight(my_reweight)

# %% [markdown]
# Fur is dark spikes and gaps. So we measure two things: edges (how much a pixel differs from the
# one below it), and how bright the place is where the ball lies in the source. We take c = −2,
# −1, 0, 1 and 2. What will the ball look like with each?

# %% predict expect_weights
expect_weights = ""

# %%
P, factors = "a fluffy red ball", [-2.0, -1.0, 0.0, 1.0, 2.0]
known(model, P)
size, color, thing, _ = roles(word_list(model, P))
word = size or color or thing                                      # "fluffy"
chosen = tokens_of(model.tokenizer, P, word)
prompts = [P] * (1 + len(factors))                                 # a target for each c
library = p2p.reweight(model.tokenizer, prompts, [{word: c} for c in factors])


def reweight(M, M_star, t):
    c = torch.tensor(factors, dtype=M.dtype)
    M_hat = my_reweight(M, chosen[0], c)
    for token in chosen[1:]:                                       # if the word has more than one
        M_hat[..., token] = my_reweight(M, token, c)[..., token]
    return M_hat


if reweight_is_right:
    check_equal(reweight, library, targets=len(factors))
runs = [sample(prompts, reweight if reweight_is_right else library, seed) for seed in SEEDS[:2]]
names = [f"c = {c:g}" for c in factors]
show("3_weights", [image for run in runs for image in run[1:]], names * len(runs),
     columns=len(factors), side=160)


def edges(image):
    return np.abs(np.diff(np.asarray(image, float), axis=0)).mean()


def brightness(source, image):
    its = outline(source)                                          # strong colour, as in overlap
    return np.asarray(image, float)[its].mean() if its.any() else np.nan


of_edges = [[edges(image) for image in run[1:]] for run in runs]
bright = [[brightness(run[0], image) for image in run[1:]] for run in runs]
table("edges", names, of_edges, digits=1)
table(f"brightness of the {thing}", names, bright, digits=0)

# %% [markdown] teacher
# **Answer.** From c = 0 to 1 to 2 the fur grows, and c = 1 changes nothing. With 0 there still is
# some: the tokens after "fluffy" know of it from the text encoder. Below 0 the ball is the
# *opposite* of furry: the spikes go, and as fur is dark, the ball gets bright patches.
#
# (Edges do not tell −2 from 0, nor 1 from 2 here: bright patches have edges, too.)

# %% teacher
claim("edges grow from c = 0 to 1", all(row[2] < row[3] for row in of_edges))
claim("brightness falls at each step from c = −2 to 2",
      all((np.diff(row) < 0).all() for row in bright))
claim("c = 1 changes nothing", all(abs(row[3] - edges(run[0])) < 0.1
                                   for row, run in zip(of_edges, runs)))

# %% [markdown]
# ## Is this not just weighting a token?
#
# A common trick multiplies the token's *embedding* by c. Key and value are both made of it, so the
# trick changes the map as well. Re-weighting is linear: the factor may as well go to the value.
#
# $$\big(M\, \mathrm{diag}(c)\big)\, V^* = M\, \big(\mathrm{diag}(c)\, V^*\big)$$
#
# We try c on the map, on the embedding, and on the embedding under the source's maps. Which two
# rows of pictures will be the same?

# %% predict expect_embedding
expect_embedding = ""

# %%
of_map = [runs[0][i] for i in (0, 1, 3, 4, 5)]     # as above, the first seed, without c = -1
factors = [-2.0, 0.0, 1.0, 2.0]
prompts = [P] * (1 + len(factors))


def weigh_embedding(encoder, inputs, out):         # a PyTorch hook, called after the text encoder
    if len(out.last_hidden_state) == len(prompts):                 # not for the empty prompt
        states = out.last_hidden_state
        states[1:, chosen] *= torch.tensor(factors, dtype=states.dtype)[:, None, None]


def hold(M, M_star, t):
    return M.expand_as(M_star)


with model.text_encoder.register_forward_hook(weigh_embedding):
    of_embedding, held = sample(prompts), sample(prompts, hold)
names = [f"c = {c:g}" for c in factors]
captions = [f"{what}, {name}" for what in ("map", "embedding", "embedding, M held")
            for name in names]
show("3_embedding", of_map[1:] + of_embedding[1:] + held[1:], captions, columns=4)
levels = [np.abs(np.asarray(a, float) - np.asarray(b, float)).max()
          for a, b in zip(of_map, held)]
print(f"map, or embedding under the source's maps: at most {max(levels):.0f} of 255 levels apart")
of_two = [overlap(run[0], run[4]) for run in (of_map, of_embedding)]                    # c = 2
of_minus_two = [overlap(run[1], run[2]) for run in (of_map, of_embedding)]              # against 0
print("overlap of c = 2 with c = 1:  map {:.2f}, embedding {:.2f}".format(*of_two))
print("overlap of c = -2 with c = 0: map {:.2f}, embedding {:.2f}".format(*of_minus_two))

# %% [markdown] teacher
# **Answer.** It is, if the map is held fixed: rows one and three are the same. Without that, the
# trick also changes where every pixel looks: with c = 2 the picture is destroyed, and −2 looks
# like 0, since no softmax can take less than nothing.

# %% teacher
claim("map, and embedding with M held, are the same to 2 levels of 255", max(levels) <= 2)
claim("with c = 2 the embedding's picture is far from that with c = 1, the map's is not",
      of_two[0] > of_two[1] + 0.2)
claim("with c = −2 the embedding's picture is like that with c = 0, the map's is not",
      of_minus_two[1] > 0.9 > of_minus_two[0])

# %% [markdown]
# ## To discuss
#
# - Why does padding need a map? What would happen if it took the map of a word?
# - Why may c be negative? What does a negative amount of attention mean?
# - The castle has the map of "tree" and does not look like a tree. Why not?
#
# ## Assignment: one formula
#
# All three edits are one formula. Column j of A (source tokens, target tokens) says which of the
# source's maps token j takes; own is 1 for a word that keeps its own map, else 0; w is 1 while
# the edit acts, else 0, and then the target's own maps are left; c is the factor of re-weighting.
# In the library c acts in a window of its own: also where w is 0, and on words that are new.
#
# ### Exercise 4: write it

# %% exercise one_formula 4
def one_formula(M, M_star, A, own, w, c):
    # M: (heads, height, width, source tokens)   M_star: (targets, heads, height, width, tokens)
    # A: (source tokens, tokens)   own, w, c: (tokens,)
    # returns M_hat, shaped like M_star
    ...


# %% check one_formula
formula_is_right = check.one_formula(one_formula)

# %% [markdown]
# 1. Use it to add "blue" to "a cat" and turn "blue" down to c = 0.5 at once, in an Edit (M, M_star,
#    t). `p2p.refine` has A and own. Predict the picture first.
# 2. What changes if c does not act after the window? When would you want that?
# 3. Compare with `CrossEdit` and `Reweight` in `p2p_min/edits.py`: the same formula.

# %% predict expect_half_blue
expect_half_blue = ""

# %% teacher
P, P_star = "a cat", "a blue cat"
phrase = p2p.refine(model.tokenizer, [P, P_star], steps=1 - TAU)
added = [word for word in word_list(model, P_star) if word not in word_list(model, P)]  # "blue"


def of_added(factor):
    c = torch.ones(77, dtype=torch.float32)
    c[[token for word in added for token in tokens_of(model.tokenizer, P_star, word)]] = factor
    return lambda M, M_star, t: one_formula(M, M_star, phrase.A[0], phrase.own[0],
                                            torch.full_like(c, t > TAU), c)


half = p2p.reweight(model.tokenizer, [P, P_star], dict.fromkeys(added, 0.5), base=phrase)
check_equal(of_added(0.5), half)
images = [sample([P, P_star], of_added(factor), seed)[-1] for seed in SEEDS for factor in (1, 0.5)]
show("3_half_blue", images, [P_star, "c = 0.5"] * len(SEEDS), columns=6, side=150)

# %% [markdown] teacher
# **Answer.** A cat in the same place, hardly paler: half of "blue" is enough for blue. The outline
# changes more: with seeds 0 and 1 the cat is smaller, with seed 2 it has a second tail.
#
# c that ends with the window would be 1 + w (c − 1) in place of c; the library does that with
# `reweight(..., steps=0.8)`.
