"""The checks of lesson 5."""
import numpy as np
import torch

from p2p_min.lessons.checks import exercise, numbers, require, tensor


def near(a, b, tolerance=1e-4):
    return bool((a - b).abs().max() < tolerance * max(1.0, float(b.abs().max())))


@exercise(hints=(
    "Take the noise out of z first: which of the two levels does z have?",
    "z_0 = (z - (1 - alpha_below) ** 0.5 * eps) / alpha_below ** 0.5. Then put noise back, at the other level.",
    "alpha ** 0.5 * z_0 + (1 - alpha) ** 0.5 * eps"))
def up(answer):
    """up(z, eps, alpha_below, alpha): one DDIM step from the level alpha_below to the noisier level alpha."""
    z, eps = numbers(1, 4, 16, 16), numbers(1, 4, 16, 16, seed=1)
    for alpha_below, alpha in ((0.9, 0.6), (0.5, 0.04), (0.999, 0.95)):
        z_0 = (z - (1 - alpha_below) ** 0.5 * eps) / alpha_below ** 0.5
        there = tensor(answer(z.clone(), eps.clone(), alpha_below, alpha), z.shape)
        down = (z - (1 - alpha) ** 0.5 * eps) / alpha ** 0.5
        down = alpha_below ** 0.5 * down + (1 - alpha_below) ** 0.5 * eps
        require(not near(there, down), "this is the step down: which level does z have, and which is wanted?")
        back = (there - (1 - alpha) ** 0.5 * eps) / alpha ** 0.5
        require(near(back, z_0), f"from level {alpha_below} to {alpha}: the z_0 in your z_t is not the z_0 in z; it is "
                                 f"up to {(back - z_0).abs().max():.2f} away")
        wanted = alpha ** 0.5 * z_0 + (1 - alpha) ** 0.5 * eps
        require(near(there, wanted), f"up to {(there - wanted).abs().max():.3f} away from the formula")


@exercise(hints=(
    "Three things happen to z: guidance, the step, the comparison. Write one line for each.",
    "The guided prediction is eps_u + w * (eps - eps_u), and step(z, guided) is where it leads.",
    "The loss is (step(z, guided) - z_below).square().mean(), a tensor: no .item()."))
def null_text_loss(answer):
    """null_text_loss(z, eps, eps_u, w, z_below, step): how far the guided step misses z_below, squared, on average."""
    z, eps, eps_u, z_below = (numbers(1, 4, 16, 16, seed=seed) for seed in range(4))
    step = lambda z, eps: 0.9 * z - 0.3 * eps              # noqa: E731
    losses, wanted, others = [], [], {
        "the sum of the squares; the mean is wanted": lambda miss, wrong_way: miss.square().sum(),
        "the root of the loss; the mean square itself is wanted": lambda miss, wrong_way: miss.square().mean().sqrt(),
        "guidance goes from eps_u towards eps, not the other way": lambda miss, wrong_way: wrong_way.square().mean()}
    found = {hint: [] for hint in others}
    for w in (1.0, 5.0, 7.5):
        given = eps_u.clone().requires_grad_()
        loss = answer(z.clone(), eps.clone(), given, w, z_below.clone(), step)
        require(isinstance(loss, torch.Tensor) and loss.numel() == 1, "a loss is one number, in a tensor")
        require(loss.requires_grad or w == 1, "no gradient reaches eps_u: keep to tensors, without .item() or detach()")
        miss, wrong_way = (step(z, a + w * (b - a)) - z_below for a, b in ((eps_u, eps), (eps, eps_u)))
        losses.append(loss.item())
        wanted.append(miss.square().mean().item())
        for hint, other in others.items():
            found[hint].append(other(miss, wrong_way).item())

    # A mistake is named only where it explains every one of the losses.
    right = np.isclose(losses, wanted, rtol=1e-3)
    for hint, other in found.items():
        require(right.all() or not np.allclose(losses, other, rtol=1e-4), hint)
    w, loss, due = next((each for each, ok in zip(zip((1.0, 5.0, 7.5), losses, wanted), right) if not ok), (0, 0, 0))
    require(right.all(), f"with w = {w} it is {loss:.3f}, and {due:.3f} is wanted: take the guided eps, step with it, "
            "compare with z_below")


@exercise(hints=(
    "trajectory[0] is z_T, before step 0. Where is the trajectory after step i?",
    "Only row 0 changes. z[:1] has the shape of trajectory[i + 1]; return z at the end."))
def put_back(answer):
    """put_back(z, trajectory, i): z after step i, its row 0 back on the trajectory."""
    trajectory = numbers(6, 1, 4, 16, 16)                  # of 5 steps, z_T first
    for rows in (2, 4):
        for i in (0, 2, 4):
            z = numbers(rows, 4, 16, 16, seed=i + 1)
            given = tensor(answer(z.clone(), trajectory.clone(), i), z.shape)
            require(near(given[1:], z[1:]), "the targets, rows 1 and on, must stay as they are")
            require(not near(given[:1], z[:1]), "row 0 is what it was")
            for j in range(6):
                require(j == i + 1 or not near(given[:1], trajectory[j]),
                        f"row 0 after step {i} of 5 is trajectory[{j}]; trajectory[0] is where step 0 begins")
            require(near(given[:1], trajectory[i + 1]), f"row 0 after step {i} is not on the trajectory")
