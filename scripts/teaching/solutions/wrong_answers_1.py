"""Lesson 1: answers that its checks must refuse, and other right ones."""
import torch


def scores(Q, K):
    return Q @ K.transpose(1, 2) / Q.shape[-1] ** 0.5


def column(M, tokens):
    return M[..., tokens].sum(-1).mean(0)


def loops(Q, K):
    M = torch.zeros(len(Q), Q.shape[1], K.shape[1], dtype=torch.float32)
    for head in range(len(Q)):
        for pixel in range(Q.shape[1]):
            each = torch.stack([torch.dot(Q[head, pixel], k) for k in K[head]]) / Q.shape[-1] ** 0.5
            M[head, pixel] = each.exp() / each.exp().sum()
    return M


def in_place(Q, K):
    return torch.softmax(Q.div_(Q.shape[-1] ** 0.5) @ K.transpose(1, 2), dim=-1)


WRONG = {
    "attention_map": {
        "not divided by √d": lambda Q, K: torch.softmax(Q @ K.transpose(1, 2), dim=-1),
        "divided by d": lambda Q, K: torch.softmax(Q @ K.transpose(1, 2) / Q.shape[-1], dim=-1),
        "divided by √ of the tokens": lambda Q, K: torch.softmax(Q @ K.transpose(1, 2) / K.shape[1] ** 0.5, dim=-1),
        "normalised over the pixels": lambda Q, K: torch.softmax(scores(Q, K), dim=-2),
        "normalised over the heads": lambda Q, K: torch.softmax(scores(Q, K), dim=0),
        "not normalised": lambda Q, K: scores(Q, K).exp(),
        "no softmax": scores,
        "shares of the scores": lambda Q, K: scores(Q, K) / scores(Q, K).sum(-1, keepdim=True),
        "divided after the softmax": lambda Q, K: torch.softmax(Q @ K.transpose(1, 2), dim=-1) / Q.shape[-1] ** 0.5,
        "sigmoid": lambda Q, K: torch.sigmoid(scores(Q, K)),
        "minus": lambda Q, K: torch.softmax(-scores(Q, K), dim=-1),
        "tokens by pixels": lambda Q, K: torch.softmax(scores(Q, K), dim=-1).transpose(1, 2),
        "K laid out anew, not transposed":
            lambda Q, K: torch.softmax(Q @ K.reshape(len(K), K.shape[2], K.shape[1]) / Q.shape[-1] ** 0.5, dim=-1),
        "K not transposed": lambda Q, K: torch.softmax(Q @ K, dim=-1),
        "heads mixed": lambda Q, K: torch.softmax(scores(Q, K.flip(0)), dim=-1),
        "averaged over heads": lambda Q, K: torch.softmax(scores(Q, K), dim=-1).mean(0),
        "writes into Q": in_place,
    },
    "word_picture": {
        "width first": lambda M, tokens, height, width: column(M, tokens).reshape(width, height),
        "columns of pixels": lambda M, tokens, height, width: column(M, tokens).reshape(width, height).T,
        "mean over its tokens": lambda M, tokens, height, width:
            M[..., tokens].mean(-1).mean(0).reshape(height, width),
        "first token only": lambda M, tokens, height, width: M[..., tokens[0]].mean(0).reshape(height, width),
        "last token only": lambda M, tokens, height, width: M[..., tokens[-1]].mean(0).reshape(height, width),
        "sum over heads": lambda M, tokens, height, width: M[..., tokens].sum((0, -1)).reshape(height, width),
        "one head": lambda M, tokens, height, width: M[0][:, tokens].sum(-1).reshape(height, width),
        "the last head": lambda M, tokens, height, width: M[-1][:, tokens].sum(-1).reshape(height, width),
        "the greatest head": lambda M, tokens, height, width: M[..., tokens].sum(-1).amax(0).reshape(height, width),
        "the next token": lambda M, tokens, height, width:
            column(M, [n + 1 for n in tokens]).reshape(height, width),
        "upside down": lambda M, tokens, height, width: column(M, tokens).reshape(height, width).flip(0),
        "made to sum to 1": lambda M, tokens, height, width:
            (column(M, tokens) / column(M, tokens).sum()).reshape(height, width),
        "made to have 1 as largest": lambda M, tokens, height, width:
            (column(M, tokens) / column(M, tokens).max()).reshape(height, width),
        "not laid out": lambda M, tokens, height, width: column(M, tokens),
        "heads kept": lambda M, tokens, height, width: M[..., tokens].sum(-1).reshape(-1, height, width),
    },
    "times_as_much": {
        "inside over all": lambda of_word, mask: of_word[mask].mean() / of_word.mean(),
        "outside over inside": lambda of_word, mask: of_word[~mask].mean() / of_word[mask].mean(),
        "sums": lambda of_word, mask: of_word[mask].sum() / of_word[~mask].sum(),
        "the share inside": lambda of_word, mask: of_word[mask].sum() / of_word.sum(),
        "zeros counted": lambda of_word, mask: (of_word * mask).mean() / (of_word * ~mask).mean(),
        "greatest": lambda of_word, mask: of_word[mask].max() / of_word[~mask].max(),
        "medians": lambda of_word, mask: of_word[mask].median() / of_word[~mask].median(),
        "difference": lambda of_word, mask: of_word[mask].mean() - of_word[~mask].mean(),
        "a map": lambda of_word, mask: of_word * mask,
        "percent": lambda of_word, mask: 100 * of_word[mask].mean() / of_word[~mask].mean(),
    },
}

RIGHT = {
    "attention_map": {
        "einsum": lambda Q, K: torch.einsum("hpd,htd->hpt", Q, K).div(Q.shape[-1] ** 0.5).softmax(-1),
        "loops": loops,
        "Q divided first": lambda Q, K: (Q / Q.shape[-1] ** 0.5 @ K.mT).softmax(2),
        "in double precision": lambda Q, K: scores(Q.double(), K.double()).softmax(-1),
    },
    "word_picture": {
        "mean first": lambda M, tokens, height, width: M.mean(0).unflatten(0, (height, width))[..., tokens].sum(-1),
        "by indexing": lambda M, tokens, height, width: sum(M[:, :, n].mean(0).view(height, width) for n in tokens),
        "one pixel at a time": lambda M, tokens, height, width: torch.stack(
            [torch.stack([M[:, y * width + x, tokens].sum(-1).mean() for x in range(width)]) for y in range(height)]),
    },
    "times_as_much": {
        "a Python number": lambda of_word, mask: of_word[mask].mean().item() / of_word[~mask].mean().item(),
        "by sums": lambda of_word, mask:
            (of_word * mask).sum() / mask.sum() / ((of_word * ~mask).sum() / (~mask).sum()),
        "in numpy": lambda of_word, mask: of_word.numpy()[mask.numpy()].mean() / of_word.numpy()[~mask.numpy()].mean(),
    },
}
