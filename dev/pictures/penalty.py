"""The three pictures of docs/explanation/penalty.md: python dev/pictures/penalty.py

One state, two actions, so that every quantity has a formula. They are computed by the oracles of the library and
compared with the formulas.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import bilevel_rl as brl
from bilevel_rl.figures.style import Style, save_figure_at

IMAGES = Path(__file__).parents[2] / "docs" / "images"
CAR, BUS = range(2)
LIKES_CAR = 0.3
"""A trip by car is worth this much more to the follower than one by bus."""
TAU = 0.1
X = np.linspace(0.0, 1.0, 201)
AT = 0.3
"""The x at which bias and noise are shown."""

problem = brl.BilevelProblem(
    environment=brl.TabularMDP.from_dense(np.ones((1, 2, 1)), initial=[1.0], discount=0.9),
    reward=lambda x, s, a: jnp.where(a == BUS, x, LIKES_CAR),
    upper=brl.OccupancyCost(cost=lambda x, s, a: jnp.where(a == BUS, x, 1.0)),
    initial_x=0.0,
    project=brl.projections.Box(0.0, 1.0),
)


def bus(w: float | None = None) -> np.ndarray:
    """Share of bus trips at every x: of the follower, or of the penalized policy."""
    advantage = X - LIKES_CAR + (0.0 if w is None else w * (1.0 - X))
    share = np.asarray(jax.nn.sigmoid(advantage / TAU))
    if w is None:
        oracle = [brl.exact.lower_policy(problem, x, entropy_weight=TAU)[0, BUS] for x in X[::50]]
    else:
        oracle = [brl.exact.penalized_policy(problem, x, entropy_weight=TAU, penalty=w)[0, BUS] for x in X[::50]]
    np.testing.assert_allclose(share[::50], oracle, rtol=1e-4)
    return share


def slopes(w: float | None = None) -> np.ndarray:
    """Slope of Φ_τ, or of Φ_{w,τ}, at every x."""
    p = bus()
    if w is None:
        found = p + (X - 1.0) * p * (1.0 - p) / TAU
        oracle = [brl.exact.hyper_gradient(problem, x, entropy_weight=TAU) for x in X[::50]]
    else:
        found = bus(w) + (p - bus(w)) / w
        oracle = [brl.exact.penalty_gradient(problem, x, entropy_weight=TAU, penalty=w) for x in X[::50]]
    np.testing.assert_allclose(found[::50], oracle, rtol=1e-3, atol=1e-5)
    return found


def draw_bias(style: Style) -> Figure:
    """Φ_τ and Φ_{w,τ} for several w, each with its lowest point."""
    figure = Figure(figsize=(7.2, 3.6))
    axes = figure.subplots()
    kinds = [(None, r"$\Phi_\tau$"), *((w, f"penalized, w = {w:g}") for w in (0.1, 0.3, 1.0))]
    for number, (w, label) in enumerate(kinds):
        if w is None:
            values = np.array([brl.exact.hyper_objective(problem, x, entropy_weight=TAU) for x in X])
        else:
            values = np.array([brl.exact.penalty_objective(problem, x, entropy_weight=TAU, penalty=w) for x in X])
        colour = style.path if w is None else f"C{number - 1}"
        axes.plot(X, values, color=colour, linewidth=2.6 if w is None else 1.8, label=label)
        lowest = values.argmin()
        axes.plot(X[lowest], values[lowest], "o", color=colour)
        print(f"{label}: lowest {values[lowest]:.3f} at x = {X[lowest]:.3f}")
    axes.set_xlabel("subsidy x of a bus trip")
    axes.set_ylabel("leader's cost per trip")
    axes.legend()
    return figure


def draw_policies(style: Style) -> Figure:
    """Both policies, and how the difference of their shares stands for a slope."""
    figure = Figure(figsize=(9.6, 3.6))
    left, right = figure.subplots(1, 2)
    w, p = 0.3, bus()
    left.plot(X, p, color=style.path, label="the follower, π*")
    left.plot(X, bus(w), color="C1", label=f"penalized, w = {w:g}")
    left.fill_between(X, p, bus(w), color="C1", alpha=0.2, linewidth=0)
    left.set_ylabel("share of bus trips")
    right.axhline(0.0, color="#9aa2ab", linewidth=1)
    right.plot(X, slopes(), color=style.path, linewidth=2.6, label=r"slope of $\Phi_\tau$")
    right.plot(X, slopes(0.1), color="C0", label="two policies, w = 0.1")
    right.plot(X, slopes(w), color="C1", label=f"two policies, w = {w:g}")
    right.plot(X, p, color="C4", linestyle="--", label="as if nobody answered")
    right.set_ylabel("slope of the leader's cost")
    for axes in (left, right):
        axes.set_xlabel("subsidy x of a bus trip")
        axes.legend(fontsize="small")
    return figure


def draw_trade(style: Style) -> Figure:
    """Bias and noise of the slope at one x, against w."""
    weights = np.geomspace(0.01, 1.0, 41)
    p = float(jax.nn.sigmoid((AT - LIKES_CAR) / TAU))
    q = np.asarray(jax.nn.sigmoid((AT - LIKES_CAR + weights * (1.0 - AT)) / TAU))
    slope, mean = p + (AT - 1.0) * p * (1.0 - p) / TAU, q + (p - q) / weights
    # A sample is 1[bus of π^L] + (1[bus of π*] − 1[bus of π^L]) / w.
    independent = p * (1 - p) / weights**2 + (1 - 1 / weights) ** 2 * q * (1 - q)
    coupled = p + (q - p) * (1 - 1 / weights) ** 2 - mean**2  # They agree as often as they can.
    figure = Figure(figsize=(7.2, 3.6))
    axes = figure.subplots()
    axes.loglog(weights, np.sqrt(independent), color="C4", label="noise of one sample, independent chains")
    axes.loglog(weights, np.sqrt(coupled), color="C0", label="noise of one sample, coupled chains")
    axes.loglog(weights, abs(mean - slope), color=style.accent, label="bias")
    axes.set_xlabel("penalty parameter w")
    axes.set_ylabel(f"error of the slope at x = {AT:g}")
    axes.legend(fontsize="small")
    for w in (0.01, 0.1, 1.0):
        i = abs(weights - w).argmin()
        print(
            f"w = {weights[i]:.2f}: slope {mean[i]:.3f} for {slope:.3f}, "
            f"noise {np.sqrt(independent[i]):.2f} independent, {np.sqrt(coupled[i]):.2f} coupled"
        )
    return figure


if __name__ == "__main__":
    mpl.use("agg")
    for name, draw in [("bias", draw_bias), ("policies", draw_policies), ("trade", draw_trade)]:
        save_figure_at(IMAGES / f"penalty_{name}", draw)
        picture = IMAGES / f"penalty_{name}.png"
        Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)  # A third of the bytes.
