# %% [markdown]
# # From a log of transitions to an incentive with an interval
#
# **Which credits bring rental bikes up the hill, and how sure can you be if all you have is a log?**
#
# Riders leave bikes where they like. On the hill bikes are missing, since nobody likes to pedal up. You have a table of
# past rides and no simulator. You learn to turn the table into a model, to find the best credits on it, and to say how
# much of the answer the log supports.

# %%
import csv

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel_rl as brl

# %% [markdown]
# ## Who wants what
#
# There are four zones. Riders like some more than others, and dislike climbing; a survey says how much. The operator
# pays a credit `x[a]` for a ride to zone a. An hour of a bike on the hill is worth 2 to it. `entropy_weight` says how
# much riders like variety: what differs by less than 0.5 they hardly tell apart.

# %%
ZONES = ["campus", "centre", "hill", "river"]
LIKING = np.array([0.4, 0.8, 0.0, 0.6])
CLIMB = np.array([[0.0, 0.2, 0.5, 0.2], [0.3, 0.0, 0.6, 0.1], [0.1, 0.1, 0.0, 0.1], [0.4, 0.2, 0.7, 0.0]])  # from, to
VARIETY = 0.5
hill = ZONES.index("hill")


def reward(x, s, a):
    """Of a ride from zone s to zone a."""
    return jnp.asarray(LIKING - CLIMB)[s, a] + x[a]


def cost(x, s, a):
    """What the operator pays, less what a bike on the hill is worth."""
    return x[a] - 2.0 * (s == hill)


def build(environment):
    """The problem, in an environment: that of a log, or the true one."""
    return brl.BilevelProblem(
        environment,
        reward,
        brl.OccupancyCost(cost),
        initial_x=np.zeros(4),
        project=brl.projections.Box(0.0, 3.0),
        entropy_weight=VARIETY,
    )


# %% [markdown]
# ## A log to work with
#
# So that this page needs no download, it writes its own log. **With a table of your own this cell is not there.** What
# follows sees the file alone; the truth comes back at the very end.

# %%
ARRIVES = np.array([0.95, 0.9, 0.7, 0.9])  # Chance to get where one rides to; otherwise one strands anywhere.
kernel = np.tile(ARRIVES[:, None] * np.eye(4) + (1 - ARRIVES)[:, None] / 4, (4, 1, 1))
truth = build(brl.TabularMDP.from_dense(kernel, initial=np.full(4, 0.25), discount=0.9))
habits = np.asarray(brl.exact.lower_policy(truth, np.zeros(4), entropy_weight=VARIETY))


def write_log(path, num_riders, num_rides=20, seed=0):
    """Simulates riders without credits, who do what is best for them."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["rider", "zone", "rides_to", "arrives_in"])
        for rider in range(num_riders):
            zone = rng.integers(4)
            for _ in range(num_rides):
                goal = rng.choice(4, p=habits[zone] / habits[zone].sum())
                arrived = rng.choice(4, p=kernel[zone, goal])
                table.writerow([rider, ZONES[zone], ZONES[goal], ZONES[arrived]])
                zone = arrived


write_log("rides.csv", num_riders=60)

# %% [markdown]
# ## What the log says, and what it does not
#
# The file has a line for each ride: who, from which zone, where to, and where the bike ended up.

# %%
with open("rides.csv") as file:
    print("".join(file.readlines()[:3]), end="")

COLUMNS = {"state": "zone", "action": "rides_to", "next_state": "arrives_in"}
log = brl.TransitionLog.read("rides.csv", **COLUMNS, all_states=ZONES, all_actions=ZONES)
print(log)
print("rides to the hill, by start:", log.visits()[:, hill].astype(int))

# %% [markdown]
# ```text
# 1,200 transitions of 4 states and 4 actions; each pair was tried 8 to 308 times.
# Every pair was tried.
# rides to the hill, by start: [10 29  8 13]
# ```
#
# `state=`, `action=` and `next_state=` name the columns. `all_states` and `all_actions` say which number each label
# has; without them labels are numbered by the alphabet.
#
# The log is thin exactly where it matters. Few people ever rode to the hill, and with credits many shall.
#
# ## The best credits, by this log
#
# `log.mdp` is the model that the log amounts to: how often each ride ended where. It starts in any zone alike;
# `initial=` says otherwise.

# %%
problem = build(log.mdp(discount=0.9))
best = brl.exact.solve(problem, entropy_weight=VARIETY)
print("credits:", {zone: round(float(credit), 2) for zone, credit in zip(ZONES, best.x, strict=True)})

# %% [markdown]
# ```text
# credits: {'campus': 0.0, 'centre': 0.0, 'hill': 0.93, 'river': 0.0}
# ```
#
# ## How sure is that?
#
# `confidence` asks what credits would cost under 100 other models that could have left the same log. In each of them
# riders answer anew. The interval shall hold the true cost nine times out of ten.

# %%
none = brl.exact.confidence(problem, log, np.zeros(4), entropy_weight=VARIETY, num_models=100)
tempted = brl.exact.confidence(problem, log, best.x, entropy_weight=VARIETY, num_models=100)
print("cost without credits:", none)
print("cost with the best:  ", tempted)

# %% [markdown]
# ```text
# cost without credits: -0.1538 (90 %: -0.1688 to -0.1357)
# cost with the best:   -0.2377 (90 %: -0.2791 to -0.1432)
# ```
#
# Costs are per step; negative ones are gains. What riders do without credits is well known, since that is what the log
# is of. What they would do with credits is not: the interval is three times as wide, and the gain of the credits not
# certain.
#
# ## Choose on one half, ask the other
#
# Credits that were chosen on a log look better on that log than they are: noise was taken for an opportunity. The
# remedy is to choose on one half of the riders and to ask the other half. `read` takes columns as well as files.

# %%
table = np.genfromtxt("rides.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
is_first = table["rider"] % 2 == 0


def log_of(rows):
    """The log of some of the rows."""
    columns = {name: table[name][rows] for name in table.dtype.names}
    return brl.TransitionLog.read(columns, **COLUMNS, all_states=ZONES, all_actions=ZONES)


first, second = log_of(is_first), log_of(~is_first)
chosen = brl.exact.solve(build(first.mdp(discount=0.9)), entropy_weight=VARIETY).x
asked = brl.exact.confidence(build(second.mdp(discount=0.9)), second, chosen, entropy_weight=VARIETY, num_models=100)
print("chosen on one half, asked of the other:", asked)

# %% [markdown]
# ```text
# chosen on one half, asked of the other: -0.2746 (90 %: -0.3195 to -0.14)
# ```
#
# Half of the log is all that this interval has, so it is wider still.
#
# ## Would more data help?
#
# The same with logs of several lengths. Here the truth may come back: what the credits chosen on each log really cost.

# %%
lengths, found = (15, 60, 240), []
for num_riders in lengths:
    write_log("some.csv", num_riders, seed=num_riders)
    some = brl.TransitionLog.read("some.csv", **COLUMNS, all_states=ZONES, all_actions=ZONES)
    of_log = build(some.mdp(discount=0.9))
    x = brl.exact.solve(of_log, entropy_weight=VARIETY).x
    cost_of_x = brl.exact.confidence(of_log, some, x, entropy_weight=VARIETY, num_models=100)
    really = brl.exact.hyper_objective(truth, x, entropy_weight=VARIETY)
    found.append((cost_of_x.estimate, *cost_of_x.interval(), really))
    print(f"{num_riders * 20:5} rides: {cost_of_x}, really {really:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.bar(ZONES, best.x, color="#4c9f70")
left.set(ylabel="credit for a ride there", title="The best credits, by 1,200 rides")
estimates, lows, highs, really = np.array(found).T
places = np.arange(len(lengths))
right.vlines(places, lows, highs, color="#3366aa", linewidth=6, alpha=0.5, label="90 % interval")
right.plot(places, estimates, "o", color="#3366aa", label="by the log")
right.plot(places, really, "_", color="#cc4422", markersize=22, markeredgewidth=2, label="really")
right.set_xticks(places, [f"{20 * n:,} rides" for n in lengths])
right.set(ylabel="cost", xlim=(-0.5, len(lengths) - 0.5), title="What the best credits cost")
right.legend()
figure.savefig("03_log_to_incentive.png", dpi=100)

# %% [markdown]
# ![The best credits, and what they cost by logs of three lengths](../images/tutorials/03_log_to_incentive.png)
#
# *Left: only rides to the hill are worth a credit. Right: the longer the log, the shorter the interval. The last one
# just misses what the credits really cost, as one in ten may; credits that were chosen on the same log are also
# flattered by it. That is what the two halves are for ([measured](../reports/confidence.md)).*
#
# ## Now you: other columns, another cost
#
# A museum wants fewer people in its crowded hall. It has a log `museum.csv` of visits, with the columns `visitor`,
# `room`, `door`, `next_room` and `left`. Rooms are numbered; `left` is True where a visit ended, and `next_room` is 5
# then.

# %%
rng = np.random.default_rng(0)
with open("museum.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["visitor", "room", "door", "next_room", "left"])
    for visitor in range(200):
        room = 0
        while room != 5:
            door = int(rng.choice(3, p=[0.5, 0.3, 0.2]))  # 0: to the hall, 1: onwards, 2: out
            goal = (1, (room + 1) % 5, 5)[door]
            next_room = goal if rng.random() < 0.9 else int(rng.integers(5))
            table.writerow([visitor, room, door, next_room, next_room == 5])
            room = next_room

# %% [markdown]
# Visitors like the hall (room 1) at 0.5 a step and every other room at 0.2, with an entropy weight of 0.2. The museum
# can offer a voucher x between 0 and 1 for a single thing: going onwards (door 1) from any room. It pays x each time,
# and minds each step in the hall at 1. Discount 0.9. Which voucher is best, what does it cost, and what is the
# interval?
#
# All you need is on this page and in [start from a log](../how_to/logged_data.md). You should find a voucher of 0.25
# and a cost of 0.595 (0.566 to 0.629), where no voucher costs 0.656.
#
# Next: [a task that pays only at its end](04_shape_a_sparse_task.py).
