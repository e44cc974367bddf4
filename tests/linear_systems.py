"""Random linear systems whose dynamics, noise, loss and cost all move with x."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from bilevel_rl.exact import lqr

GAMMA, TAU = 0.9, 0.4
X = np.array([0.3, -0.2, 0.5])


class Moved(eqx.Module):
    """A matrix at x = 0, and how it moves with each of three numbers."""

    base: np.ndarray
    slope: np.ndarray

    @classmethod
    def random(cls, rng, base, size):
        return cls(base, size * rng.normal(size=(3, *base.shape)))

    def __call__(self, x):
        return jnp.asarray(self.base, float) + jnp.einsum("i,ijk->jk", x, jnp.asarray(self.slope, float))


class RandomSystem(eqx.Module):
    """From x to the system. Arrays are leaves, so that systems of the same shapes share their programs."""

    transition: Moved
    noise: Moved
    root_of_loss: Moved
    cost: Moved

    def __call__(self, x):
        root, cost = self.root_of_loss(x), self.cost(x)
        loss = root @ root.T + 0.3 * jnp.eye(len(root))
        return lqr.LinearQuadratic(self.transition(x), self.noise(x), loss, (cost + cost.T) / 2)


def price(x):
    return 0.5 * jnp.sum(x**2)


def random_system(seed=0, n=3, m=2, **options):
    rng = np.random.default_rng(seed)
    size = n + m + 1
    of_cost = rng.normal(size=(size, size)) / size**0.5
    at = RandomSystem(
        Moved.random(rng, 0.5 * rng.normal(size=(n, size)), 0.2),
        Moved.random(rng, np.diag(rng.uniform(0.2, 0.4, n)), 0.05),
        Moved.random(rng, rng.normal(size=(size, size)) / size**0.5, 0.1),
        Moved.random(rng, of_cost @ of_cost.T, 0.1),
    )
    mean, factor = rng.normal(size=n), 0.5 * rng.normal(size=(n, n))
    return lqr.LinearQuadraticProblem(at, mean, factor, initial_x=X, discount=GAMMA, regularizer=price, **options)
