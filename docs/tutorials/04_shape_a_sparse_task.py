# %% [markdown]
# # Shape a sparse task, and hand the reward to another library
#
# **Which small bonuses make a task learnable that pays only at its very end?**
#
# On a frozen lake a walker is paid 1 when it reaches the far corner, and nothing before. An agent that explores at
# random hardly ever gets there. Here the leader is the designer of the reward: it may add something small on every
# square, and wants the walker to arrive. What it finds is an ordinary Gymnasium environment for anybody's agent, such
# as PPO of stable-baselines3.

# %%
import gymnasium
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel_rl as brl
from bilevel_rl.environments import gymnasium_reward

# %% [markdown]
# ## The task
#
# Gymnasium's FrozenLake with a map of our own: S is the start, H a hole that ends the walk, G the goal. The tables
# inside of toy-text environments can be read, so the follower's world and its own reward are one line each.

# %%
LAKE = ["SFFFFF", "FHFFHF", "FFFHFF", "FHFFFF", "FFFFHF", "HFFHFG"]
OPTIONS = {"desc": LAKE, "is_slippery": False}
world = brl.TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.95, **OPTIONS)
own_reward = jnp.asarray(gymnasium_reward("FrozenLake-v1", **OPTIONS), float)
print(world.num_states, "squares; pairs with a reward:", int((own_reward > 0).sum()))

# %% [markdown]
# ```text
# 36 squares; pairs with a reward: 2
# ```
#
# ## The designer's problem
#
# `x[s]` is a bonus for a step on square s, at most 0.05. The designer's cost is −1 for an arrival. The `regularizer`
# asks for small bonuses. `entropy_weight` makes the follower what a beginner is: undecided as long as little is at
# stake. Too large a bonus is a trap: the follower would stay and collect it. The designer's cost sees that.

# %%
RESTLESSNESS = 0.04
problem = brl.BilevelProblem(
    world,
    reward=lambda x, s, a: own_reward[s, a] + x[s],
    upper=brl.OccupancyCost(
        cost=lambda x, s, a: -own_reward[s, a],
        regularizer=lambda x: 0.1 * jnp.mean(x**2),
    ),
    initial_x=np.zeros(world.num_states),
    project=brl.projections.Box(0.0, 0.05),
    entropy_weight=RESTLESSNESS,
)


def arrivals(x):
    """The share of walks that reach the goal, by the follower's best answer to x."""
    policy = np.asarray(brl.exact.lower_policy(problem, x, entropy_weight=RESTLESSNESS))
    where = world.initial
    for _ in range(100):
        flow = where[:, None, None] * policy[..., None] * world.probabilities
        successors = np.broadcast_to(world.successors, flow.shape)
        where = np.bincount(successors.ravel(), flow.ravel(), world.num_states)
    return where[-1]


best = brl.exact.solve(problem, entropy_weight=RESTLESSNESS)
print(f"arrive within 100 steps: {arrivals(problem.initial_x):.0%} before, {arrivals(best.x):.0%} after")
print(np.round(best.x.reshape(6, 6), 3))

# %% [markdown]
# ```text
# arrive within 100 steps: 55% before, 83% after
# ```
#
# A few bonuses lead the walker through the narrow middle of the lake.
#
# `solve` descends on exact gradients, since this world has tables. Where there are none the leader learns from samples
# ([Gymnasium on the host](../how_to/gymnasium.md), [MountainCar](../reports/problems/mountain_car.md)).
#
# ## The reward as a file, and as an environment
#
# `LearnedReward` is the whole reward r_x, free of code. `as_gymnasium_wrapper` pays it in place of the environment's
# own.


# %%
def lake():
    """The task as it is: at most 60 steps, paid at the end."""
    return gymnasium.make("FrozenLake-v1", max_episode_steps=60, **OPTIONS)


brl.LearnedReward.of(problem, best.x, note={"problem": "frozen lake, 6 × 6"}).save("lake_reward")
learned = brl.LearnedReward.load("lake_reward")
shaped = learned.as_gymnasium_wrapper(lake())
shaped.reset(seed=0)
print("a step to the right pays", round(shaped.step(2)[1], 3))

# %% [markdown]
# ## Another library's agent
#
# PPO learns for 8,000 steps, once from the task as it is and once from the learned reward. Both are judged by the task
# as it is: does the walker arrive?

# %%
try:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
except ModuleNotFoundError:
    PPO = None
    print("This cell needs stable-baselines3 (pip install stable-baselines3). It is left out.")

curves = {}
if PPO is not None:
    torch.set_num_threads(1)  # The networks are so small that threads would wait for each other.
    for name, env in {"paid at the end": lake(), "learned reward": shaped}.items():
        agent = PPO("MlpPolicy", env, n_steps=500, batch_size=100, gamma=0.95, seed=0)
        arrived = []
        for _ in range(4):
            agent.learn(2_000, reset_num_timesteps=False)
            arrived.append(evaluate_policy(agent, lake(), 20, deterministic=False, warn=False)[0])
        curves[name] = arrived
        print(f"{name}: of 20 walks arrive, every 2,000 steps:", ", ".join(f"{share:.0%}" for share in arrived))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(1, 1.3))
image = left.imshow(best.x.reshape(6, 6), cmap="YlGn")
for row, line in enumerate(LAKE):
    for column, square in enumerate(line):
        left.text(column, row, square, ha="center", va="center", color="#aa3333" if square == "H" else "#30363d")
left.set(title="Bonuses", xticks=[], yticks=[])
figure.colorbar(image, ax=left, shrink=0.8)
for name, arrived in curves.items():
    right.plot([2_000, 4_000, 6_000, 8_000], arrived, "o-", label=name)
right.set(
    title="PPO on the task as it is",
    xlabel="steps learned from",
    ylabel="share of walks that arrive",
    ylim=(-0.03, 1.03),
)
if curves:
    right.legend()
figure.savefig("04_shape_a_sparse_task.png", dpi=100)

# %% [markdown]
# ![Bonuses on the lake, and PPO with and without them](../images/tutorials/04_shape_a_sparse_task.png)
#
# *Left: a trail of bonuses leads through the middle to the goal. Right: with it PPO finds the goal earlier: of 20 walks
# arrive 0, 10, 45 and 90 % instead of 0, 0, 10 and 65 %. That is one seed; try others.*
#
# ## Now you
#
# 1. **Another lake.** Draw a map of your own, or take `FrozenLake8x8-v1`. Is the trail where you would have put it?
# 2. **Fines too.** With `Box(-0.03, 0.03)` and a `RESTLESSNESS` of 0.02 the exact follower always arrives. PPO never
#    did, on three seeds of 10,000 steps: nearly every square carries a fine, and a hole ends them. What suits one
#    follower need not suit another; [fresh followers](../how_to/results.md) tell.
# 3. **Another cost.** Let a hole cost the designer 1 as well as an arrival earn it 1.
#
# Next: [weights of a reward from demonstrations](05_inverse_rl.py).
