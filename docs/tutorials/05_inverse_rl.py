# %% [markdown]
# # Inverse reinforcement learning from your demonstrations
#
# **You have watched people walk. What do they like, and how many walks does it take to know?**
#
# Inverse reinforcement learning is a bi-level problem too. The leader's x are the weights of a reward. The follower
# walks as is best under them. The leader wants the walks that were seen to be likely. You learn to write demonstrations
# as a `PolicyLoss`, and to see how far the answer can be trusted.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel_rl as brl

# %% [markdown]
# ## A park with features
#
# The park is a grid of 7 × 7 cells. Each has three features: shade, mud and how near it is to the lake. Walkers start
# anywhere and leave by the gate in the lower right corner.

# %%
SIZE, FEATURES = 7, ("shade", "mud", "lake")
rows, columns = np.divmod(np.arange(SIZE**2), SIZE)
shade = np.exp(-((rows - 1.0) ** 2 + (columns - 4.0) ** 2) / 4)
mud = ((rows == 3) & (columns > 0) & (columns < 6)).astype(float)
lake = np.exp(-((rows - 5.0) ** 2 + (columns - 1.0) ** 2) / 5)
features = np.stack([shade, mud, lake], axis=1)
gate = SIZE**2 - 1

moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]
reached = [np.clip(rows + r, 0, SIZE - 1) * SIZE + np.clip(columns + c, 0, SIZE - 1) for r, c in moves]
starts = np.arange(SIZE**2) != gate
park = brl.TabularMDP.from_successors(
    np.stack(reached, axis=1)[..., None],
    np.ones((SIZE**2, 4, 1)),
    initial=starts / starts.sum(),
    terminal=~starts,
    discount=0.95,
)


def reward(weights, s, a):
    """A step takes time, and is the nicer for the features of the cell that it begins in."""
    return jnp.asarray(features, float)[s] @ weights - 1.0


# %% [markdown]
# ## Demonstrations
#
# Your own are two lists of equal length: the states that were seen, and what was done there. Here they are simulated,
# so that the answer is known: walkers like shade and the lake, and dislike mud. `PolicyLoss` is −log π(a|s), averaged
# over the demonstrations.

# %%
TRUE_WEIGHTS, VARIETY = np.array([0.3, -1.0, 0.4]), 0.3


def build(states, actions):
    """The problem of finding weights that make these choices likely."""
    loss = brl.PolicyLoss(states, actions)
    return brl.BilevelProblem(park, reward, loss, initial_x=np.zeros(3), entropy_weight=VARIETY)


anything = build([0], [0])  # Its demonstrations do not matter: it is used for what walkers do.
habits = np.asarray(brl.exact.lower_policy(anything, TRUE_WEIGHTS, entropy_weight=VARIETY))


def walks(count, seed):
    """States and actions of simulated walks, of at most 40 steps."""
    found = brl.rollout(anything, habits, TRUE_WEIGHTS, jax.random.key(seed), num_episodes=count, num_steps=40)
    seen = ~found.is_over
    return np.asarray(found.states)[seen], np.asarray(found.actions)[seen]


states, actions = walks(100, seed=0)
print(f"{len(states)} steps of 100 walks; the first begins in cell {states[0]} with move {actions[0]}")

# %% [markdown]
# ## The weights that explain them
#
# `solve` descends on exact gradients of the loss. A loss of log 4 = 1.39 would be a guess among four moves.

# %%
problem = build(states, actions)
found = brl.exact.solve(problem, entropy_weight=VARIETY)
at_zero = brl.exact.hyper_objective(problem, np.zeros(3), entropy_weight=VARIETY)
print(f"loss: {at_zero:.3f} without features, {found.objective:.3f} found")
for name, weight, true in zip(FEATURES, found.x, TRUE_WEIGHTS, strict=True):
    print(f"{name:6} {weight:5.2f}   true {true:5.2f}")

# %% [markdown]
# ```text
# loss: 0.815 without features, 0.685 found
# shade   0.22   true  0.30
# mud    -0.89   true -1.00
# lake    0.40   true  0.40
# ```
#
# The signs are right, and the numbers are near. How near can one expect?
#
# The same works where the park can only be walked and not computed: `brl.run(brl.untuned(problem), …)` takes samples.
#
# ## How many walks are enough?
#
# Four sets of walks of each size. Where they agree, there are enough.

# %%
sizes, errors = (10, 40, 160), {}
for size in sizes:
    fits = []
    for seed in range(4):
        states, actions = walks(size, seed=100 * size + seed)
        # Sets of equal length share their compiled program.
        kept = np.random.default_rng(seed).choice(len(states), 8 * size)
        fits.append(brl.exact.solve(build(states[kept], actions[kept]), entropy_weight=VARIETY).x)
    errors[size] = np.array(fits)
    print(
        f"{size:4} walks: "
        + ", ".join(f"{n} {f.min():.2f} to {f.max():.2f}" for n, f in zip(FEATURES, errors[size].T, strict=True))
    )

# %% [markdown]
# ```text
#   10 walks: shade 0.27 to 0.48, mud -3.01 to -1.14, lake 0.25 to 0.55
#   40 walks: shade 0.20 to 0.38, mud -1.42 to -0.75, lake 0.33 to 0.47
#  160 walks: shade 0.27 to 0.30, mud -1.18 to -0.88, lake 0.33 to 0.40
# ```
#
# Ten walks tell the signs. Mud takes longest: walkers avoid it, so there is little to learn it from.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained")
for ax, weights, title in ((left, TRUE_WEIGHTS, "true: time spent"), (middle, found.x, "by 100 walks")):
    policy = brl.exact.lower_policy(problem, weights, entropy_weight=VARIETY)
    time = np.asarray(brl.exact.evaluate(problem, weights, policy).occupancy).sum(axis=1)
    time[gate] = 0.0  # Walks have ended there.
    ax.imshow(time.reshape(SIZE, SIZE), cmap="Blues")
    ax.set(title=title, xticks=[], yticks=[])
for number, (name, colour) in enumerate(zip(FEATURES, ("#4c9f70", "#8b5e3c", "#3366aa"), strict=True)):
    right.axhline(TRUE_WEIGHTS[number], color=colour, linestyle="--", linewidth=1)
    for place, size in enumerate(sizes):
        label = name if place == 0 else None
        right.plot([place] * 4, errors[size][:, number], "o", color=colour, alpha=0.7, label=label)
right.set_xticks(range(len(sizes)), [f"{size} walks" for size in sizes])
right.set(title="weights; dashed: true", xlim=(-0.4, 2.4))
right.legend(fontsize=8)
figure.savefig("05_inverse_rl.png", dpi=100)

# %% [markdown]
# ![Where walkers are, and the weights by three numbers of walks](../images/tutorials/05_inverse_rl.png)
#
# *Left and middle: where walkers spend their time, by the true weights and by those that were found. Right: four fits
# for each number of walks, and the true weights.*
#
# ## Now you
#
# 1. **Another feature.** Add one that nobody cares about, such as `columns / 6`. Does its weight come out near 0?
# 2. **Another cost.** Prefer small weights: `brl.PolicyLoss(states, actions, regularizer=lambda x: 0.01 *
#    jnp.sum(x**2))`. With ten walks, are the fits closer together?
# 3. **Your own walks.** A table of rides, read from a CSV: [demonstrations.py](../../examples/demonstrations.py).
#
# Next: [an algorithm of your own](06_your_own_algorithm.py). Texts instead of walks: [reward learning for a language
# model](07_language_model.py).
