# %% [markdown]
# # Your first bi-level problem
#
# **How high must a subsidy be to bring people to the office, and when is it too high?**
#
# In ten minutes you write down a problem with a leader and a follower, see its whole landscape, and let the library
# find the subsidy from samples alone. You need Python, and `jnp`, which is NumPy with derivatives.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel_rl as brl

# %% [markdown]
# ## The follower's world
#
# There are three places. At every step the follower chooses where to go. It gets there nine times out of ten, and ends
# up anywhere otherwise. So `go[a, s]` is the chance to be in place `s` after choosing `a`, wherever the follower was.

# %%
home, park, office = range(3)
go = 0.9 * np.eye(3) + 0.1 / 3
kernel = np.stack([go, go, go])  # kernel[s, a, next s]
places = brl.TabularMDP.from_dense(kernel, initial=[1, 0, 0], discount=0.9)
print(f"{places.num_states} states, {places.num_actions} actions, discount {places.discount}")

# %% [markdown]
# ```text
# 3 states, 3 actions, discount 0.9
# ```
#
# The follower starts at home. A discount of 0.9 means that it looks about ten steps ahead.
#
# ## What both want
#
# The follower likes the park best. The leader pays a **subsidy x** for each step that the follower begins in the
# office. These are two plain functions of x, the state and the action:
#
# - `reward`: what the follower gets, its own liking and the subsidy;
# - `cost`: what the leader loses, the subsidy in the office and 1 for every step elsewhere.

# %%
likes = jnp.array([0.7, 1.0, 0.7])
VARIETY = 0.1

problem = brl.BilevelProblem(
    environment=places,
    reward=lambda x, s, a: likes[s] + x * (s == office),
    upper=brl.OccupancyCost(cost=lambda x, s, a: jnp.where(s == office, x, 1.0)),
    initial_x=0.0,
    project=brl.projections.Box(0.0, 2.0),
    entropy_weight=VARIETY,
)

# %% [markdown]
# `initial_x` is where the leader starts, and `project` keeps x between 0 and 2. People do not always do what is best
# for them: `entropy_weight` is how much the follower likes variety. With 0 it would be a perfect optimizer.
#
# ## The landscape
#
# Here the model is known and small, so everything can be computed. For every x the follower has a best answer, and the
# leader pays Φ(x) for it. `lower_policy` is the answer, `evaluate` what comes of it, `hyper_objectives` is Φ.

# %%
subsidies = np.linspace(0, 1.2, 49)
landscape = brl.exact.hyper_objectives(problem, subsidies, entropy_weight=VARIETY)
for x in (0.0, 0.3, 0.45, 1.0):
    policy = brl.exact.lower_policy(problem, x, entropy_weight=VARIETY)
    answer = brl.exact.evaluate(problem, x, policy)
    in_office = answer.occupancy.sum(axis=1)[office]
    print(f"x = {x:.2f}: {in_office:4.0%} of the time in the office, the leader pays {answer.upper_value:.2f}")

# %% [markdown]
# ```text
# x = 0.00:   9% of the time in the office, the leader pays 0.91
# x = 0.30:  42% of the time in the office, the leader pays 0.71
# x = 0.45:  64% of the time in the office, the leader pays 0.65
# x = 1.00:  84% of the time in the office, the leader pays 1.00
# ```
#
# Without a subsidy hardly anybody comes. From 0.3 on the office is as good as the park, and the follower changes its
# mind. Far beyond that a higher subsidy only costs more.
#
# ## Learning it from samples
#
# A landscape is too expensive where x has many numbers, and where nobody knows the model there is none. The single loop
# needs neither: leader and follower learn at the same time, from the same transitions. Its step sizes say how fast each
# of them goes; these suit a small problem with numbers of size 1. Four seeds run side by side.

# %%
step_sizes = brl.StepSizes.constant_entropy(upper=0.005, actor=0.5, critic=1.0, penalty=0.2, entropy=VARIETY)
algorithm = brl.SingleLoopActorCritic(problem, step_sizes)
result = brl.run(algorithm, jax.random.key(0), num_seeds=4, num_iterations=20_000, log_every=250, progress=False)
best = brl.exact.solve(problem, entropy_weight=VARIETY)
learned = brl.exact.hyper_objectives(problem, result.x, entropy_weight=VARIETY)
print(f"best subsidy, computed: {best.x:.2f}, the leader pays {best.objective:.2f}")
print(
    f"learned by four seeds: {result.x.min():.2f} to {result.x.max():.2f}, the leader pays {learned.max():.2f} or less"
)

# %% [markdown]
# ```text
# best subsidy, computed: 0.45, the leader pays 0.65
# learned by four seeds: 0.40 to 0.43, the leader pays 0.66 or less
# ```
#
# `solve` looks at the model, which the single loop never saw. The landscape is flat around its lowest point, so a
# subsidy that is a little off costs next to nothing.
#
# ## A picture of it
#
# `result.metrics` has a column for everything that was measured on the way. x is a single number here, in column `x0`.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(subsidies, landscape, color="#3366aa")
left.plot(result.x, learned, "o", color="#cc4422", label="learned, 4 seeds")
left.set(xlabel="subsidy x", ylabel="Φ(x), what the leader pays", title="The landscape")
left.legend()
metrics = result.metrics
for seed in range(4):
    rows = metrics["seed"] == seed
    right.plot(metrics["num_transitions"][rows] / 1000, metrics["x0"][rows], color="#cc4422", alpha=0.6)
right.axhline(best.x, color="#3366aa", linestyle="--", label="best, computed")
right.set(xlabel="thousand transitions", ylabel="subsidy x", title="How the leader got there")
right.legend()
figure.savefig("01_first_problem.png", dpi=100)

# %% [markdown]
# ![The landscape with the learned subsidies, and x over transitions](../images/tutorials/01_first_problem.png)
#
# *Left: below 0.3 few are moved, above 0.6 most are, and the subsidy is wasted. Right: all seeds go too far at first,
# and settle a little below the best.*
#
# ## Now you
#
# 1. **Another cost.** Missing the office costs only 0.5 a step: replace `1.0` in `cost`. Is a subsidy still worth it?
#    The best one is about 0.27, and cautious: it brings people in for 37 % of the time.
# 2. **Another follower.** Let it like the park only a little better, `likes = [0.7, 0.8, 0.7]`. How does the landscape
#    change?
# 3. **No step sizes.** `brl.untuned(problem)` chooses them by itself. How near does it come? (It ends at about 0.34:
#    its *penalty* is larger, which is quicker and stops a little short. [Steps that need no
#    tuning](../how_to/step_sizes.md).)
#
# Next: [tolls on a road network](02_road_tolls.py), where x has eleven numbers.
