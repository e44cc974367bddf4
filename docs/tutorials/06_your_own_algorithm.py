# %% [markdown]
# # Bring your own algorithm, and compare it
#
# **You have an idea for a better leader. Is it one?**
#
# An algorithm is a class with a few methods. The library then runs it like its own: many seeds at once, the same
# transitions counted, the same exact measurements. Here the idea is plain *random search*: try a move of x, let a
# follower answer it, keep the move if it pays.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel_rl as brl
from bilevel_rl.algorithms import NestedLoop
from bilevel_rl.algorithms.sampled import SampledInfo, SampledState, TwoLoopAlgorithm, learn_for
from bilevel_rl.algorithms.transitions import draw_uniforms

# %% [markdown]
# ## The algorithm
#
# `TwoLoopAlgorithm` brings the problem, the step sizes, two followers with tables and `num_inner_steps`. Three things
# are left to say:
#
# - `num_transitions_per_iteration`: what an iteration costs. Every comparison counts it, so it must be honest.
# - `draw`: all random numbers, for many iterations at once. A step itself draws nothing, which makes runs repeatable.
# - `step`: one iteration, from a state to the next. No `if` on numbers: use `jnp.where`.
#
# `learn_for` lets both followers learn, each at its own x. What the leader pays is measured in the later half of these
# steps, when the followers have had time to answer.


# %%
class RandomSearch(TwoLoopAlgorithm):
    """Tries x + radius · noise, and keeps it where the leader then pays less."""

    radius: float = eqx.field(default=1.0, kw_only=True)

    @property
    def num_transitions_per_iteration(self):
        """T steps of every chain of both followers."""
        return 2 * self.num_inner_steps * self.num_chains

    def draw(self, key, num_iterations):
        """Noise for the moves, and uniforms for the followers."""
        move_key, key = jax.random.split(key)
        return {
            "move": jax.random.normal(move_key, (num_iterations, *self.problem.initial_x.shape)),
            "uniforms": draw_uniforms(key, num_iterations, self.num_inner_steps, 4, 1, self.num_chains),
        }

    def step(self, noise, state):
        """One try."""
        problem, step_size = self.problem, self.step_sizes(state.num_iterations)
        tried = problem.project(state.x + self.radius * noise["move"])
        both = jnp.stack([state.x, tried])
        uniforms = jnp.repeat(noise["uniforms"], 2, axis=2)  # The same luck for both.
        parameters, chain_states, visits = learn_for(
            self.followers,
            problem.mdp,
            state.parameters,
            state.chain_states,
            uniforms,
            lambda s, a: jax.vmap(problem.rewards)(both, s, a),
            step_size,
            problem.reward_bound,
        )
        visits = visits.later_half()

        def mean(function):
            of_both = jax.vmap(function, in_axes=(0, 1, 1))(both, visits.states, visits.actions)
            return jnp.mean(of_both, axis=(1, 2))

        costs = mean(problem.costs) + jax.vmap(problem.upper.regularizer)(both)
        best = jnp.argmin(costs)
        follow_best = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[best], leaf.shape), (parameters, chain_states))
        entropy, errors = jnp.mean(visits.entropy, axis=(0, 2)), jnp.mean(visits.td_errors**2, axis=(0, 2))
        info = SampledInfo(*(pair[best][None] for pair in (mean(problem.rewards), costs, entropy, errors)))
        return SampledState(state.num_iterations + 1, both[best], *follow_best), info

    def log_policies(self, state):
        """Of the follower that answers x."""
        return super().log_policies(state)[:1]


# %% [markdown]
# ## One run
#
# The problem is one of the library's: a goal on a slippery 10 × 10 grid draws the follower, and the leader moves the
# goal so that the follower ends up at a target. Its optimum is known: Φ = 0.041.

# %%
problem = brl.problems.goal_position()
BUDGET = 400_000  # Transitions of each seed.


def run(algorithm):
    """Four seeds with the whole budget."""
    length = BUDGET // algorithm.num_transitions_per_iteration
    return brl.run(algorithm, jax.random.key(0), 4, length, log_every=max(1, length // 20), progress=False)


mine = run(RandomSearch(problem, num_inner_steps=40))
print(mine)

# %% [markdown]
# ```text
# RunResult of RandomSearch: 4 seeds, 312 iterations
# upper_objective: 0.3611 → 0.1147 (median of the seeds)
# divergences: none
# ```
#
# Φ fell. Is that good?
#
# ## The comparison
#
# The same seeds, the same number of transitions, and the exact Φ of every x on the way. Three versions of the idea
# stand beside a method of the library that also has an inner loop, and beside the single loop with its own step sizes.

# %%
contestants = {
    "random search, T = 10": RandomSearch(problem, num_inner_steps=10),
    "random search, T = 40": None,
    "random search, T = 160": RandomSearch(problem, num_inner_steps=160),
    "nested loop, T = 40": NestedLoop(problem, num_inner_steps=40),
    "untuned": brl.untuned(problem),
}
results = {name: mine if algorithm is None else run(algorithm) for name, algorithm in contestants.items()}
for name, result in results.items():
    is_last = result.metrics["num_iterations"] == result.metrics["num_iterations"].max()
    last = result.metrics["upper_objective"][is_last]
    print(f"{name:24} Φ at the end: median {np.median(last):.3f}, worst {last.max():.3f}")

# %% [markdown]
# ```text
# random search, T = 10    Φ at the end: median 0.135, worst 0.171
# random search, T = 40    Φ at the end: median 0.115, worst 0.260
# random search, T = 160   Φ at the end: median 0.056, worst 0.066
# nested loop, T = 40      Φ at the end: median 0.053, worst 0.148
# untuned                  Φ at the end: median 0.045, worst 0.056
# ```
#
# The optimum is 0.041. The idea works if followers get the time to answer. It is not better than what is there, and it
# has only two numbers to search: in many dimensions a random move is hardly ever a good one.
#
# Four seeds with one setting each are a first look. Before you say that a method is better, tune all of them alike:
# `bilevel-rl compare` does ([compare methods](../how_to/compare_methods.md)).

# %%
figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for name, result in results.items():
    metrics = result.metrics
    transitions = np.unique(metrics["num_transitions"])
    objectives = metrics["upper_objective"].reshape(len(transitions), 4)
    (line,) = ax.plot(transitions / 1000, np.median(objectives, axis=1), label=name)
    ax.fill_between(transitions / 1000, objectives.min(1), objectives.max(1), color=line.get_color(), alpha=0.12)
ax.set(xlabel="thousand transitions", ylabel="Φ(x)", title="Median of four seeds, and their range")
ax.legend(fontsize=8)
figure.savefig("06_your_own_algorithm.png", dpi=85)

# %% [markdown]
# ![Φ over transitions of every contestant](../images/tutorials/06_your_own_algorithm.png)
#
# *Lower is better. A short inner loop moves early, and is fooled by followers that have not answered yet; a long one
# sees well and moves rarely.*
#
# ## Now you
#
# 1. **Another radius.** Replace `radius=1.0` by 0.3 and by 3.
# 2. **A radius that shrinks.** In `step`, multiply the move by `1 / jnp.sqrt(1 + state.num_iterations / 50)`.
# 3. **Another problem.** `brl.problems.goal_position(size=20)`, or one of your own with more numbers in x.
# 4. **To the library.** What a method must keep, how it gets into `compare`, and the contract tests that run on it:
#    [adding an algorithm](../how_to/adding_an_algorithm.md).
#
# Next: [reward learning for a language model](07_language_model.py).
