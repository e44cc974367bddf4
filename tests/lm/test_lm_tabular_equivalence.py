"""The loop on language models takes the steps of the tabular loop: on the MDP whose states are what was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bilevel_rl import BilevelProblem, Followers, OccupancyCost, SingleLoopActorCritic, StepSizes, TabularMDP
from bilevel_rl.lm.rows import StepSizeNumbers
from lm.tiny_models import HORIZON, all_completions, free_tables, prefix_table, tokenizer
from lm.tiny_trainers import TextTable, score, text_number, trainer

NUM_PREFIXES, ENDED, DISCOUNT = 13, 13, 0.9
STEPS = StepSizeNumbers(upper=0.5, actor=0.3, critic=0.8, penalty=0.6, entropy=0.4)
NUM_ROWS = 8


def token_mdp():
    """Prefixes 0…12 as `prefix_number` counts them; a third token leads to the end."""
    states, tokens = np.arange(NUM_PREFIXES + 1)[:, None], np.arange(3)[None, :]
    successors = np.where(states < 4, 3 * states + tokens + 1, ENDED)[:, :, None]
    initial, terminal = np.eye(14)[0], np.arange(14) == ENDED
    return TabularMDP.from_successors(
        successors, np.ones_like(successors), initial=initial, discount=DISCOUNT, terminal=terminal
    )


def token_problem(x, costs):
    def at_the_third_token(table, s, a):
        return jnp.where(s >= 4, table[jnp.clip(3 * (s - 4) + a, 0, 26)], 0.0)

    cost_table = jnp.asarray(costs)
    return BilevelProblem(
        token_mdp(),
        reward=lambda x, s, a: at_the_third_token(x, s, a),
        upper=OccupancyCost(lambda x, s, a: at_the_third_token(cost_table, s, a)),
        initial_x=x,
    )


def tables(built):
    """(2, 14, 4): logits and values of both followers, as the tabular loop has them."""
    base = built.followers.base.table.base_layer.weight
    rows = []
    for name, delta in free_tables(built.followers).items():
        weight, bias = built.followers.critic(name)
        rows.append(torch.cat([(base + delta).T, weight.T + bias], dim=1).detach().numpy())
    return np.pad(np.stack(rows), ((0, 0), (0, 1), (0, 0)))


def visits(completions):
    """States and actions of both policies, (2, 3 B), one row of text after the other."""
    first, second, third = completions.ids.numpy().T
    states = np.stack([0 * first, first + 1, 3 * first + second + 4], axis=1)
    actions = np.stack([first, second, third], axis=1)
    return states.reshape(2, -1), actions.reshape(2, -1)


def uniforms_that_choose(actions, followers, states):
    """Midpoints of the actions' intervals under the inverse CDF."""
    logits = np.stack([table[rows, :3] for table, rows in zip(followers, states, strict=True)]).astype(np.float64)
    policy = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(policy, actions[..., None], axis=-1)[..., 0]
    upper_ends = np.take_along_axis(policy.cumsum(axis=-1), actions[..., None], axis=-1)[..., 0]
    return upper_ends - chosen / 2


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_iteration_makes_the_update_of_the_tabular_loop(tmp_path, coupled, parts):
    seen = []

    class Reward(TextTable):
        def forward(self, inputs):
            seen.append(inputs.completions)
            return super().forward(inputs)

    built = trainer(
        tmp_path,
        model=prefix_table,
        end_id=3,
        reward_model=Reward(),
        per_device_train_batch_size=NUM_ROWS // parts,
        gradient_accumulation_steps=parts,
        optimizer="sgd",
        max_grad_norm=None,
        beta=0.0,
        entropy_weight=STEPS.entropy,
        gae_lambda=0.0,
        discount=DISCOUNT,
        reward_gradient="plain",
        coupled=coupled,
        starts_at=0.7,
    )
    for name in built.followers.names:
        bias = built.followers.critic(name)[1]
        bias.requires_grad_(False).zero_()  # the tabular critic has a number for every state, and nothing else
    x, before = built.reward_model.table.detach().numpy().copy(), tables(built)
    assert not np.allclose(before[0], before[1], atol=0.1)
    built._iterate(0, STEPS)

    every_text = all_completions(end_id=3)
    assert text_number(every_text).tolist() == list(range(27))
    costs = -np.array(score(every_text.texts(tokenizer(3))))
    sampled = [visits(completions) for completions in seen]
    states, actions = (np.concatenate(arrays, axis=1) for arrays in zip(*sampled, strict=True))
    num_chains = NUM_ROWS * HORIZON
    assert states.shape == (2, num_chains)
    # Means over B H transitions there, over B texts here.
    sizes = {name: HORIZON * getattr(STEPS, name) for name in ("upper", "actor", "critic")}
    algorithm = SingleLoopActorCritic(
        token_problem(x, costs),
        StepSizes.constant_entropy(penalty=STEPS.penalty, entropy=STEPS.entropy, **sizes),
        Followers(num_chains, coupled=False),
    )
    uniforms = np.full((4, 2, num_chains), 0.5)
    uniforms[0] = uniforms_that_choose(actions, before, states)
    start = algorithm.init(jax.random.key(0))._replace(
        x=jnp.asarray(x), parameters=jnp.asarray(before), chain_states=jnp.asarray(states, jnp.int32)
    )
    state, _ = algorithm.step(jnp.asarray(uniforms, jnp.float32), start)

    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(built.reward_model.table.detach().numpy(), state.x, **close)
    np.testing.assert_allclose(tables(built), state.parameters, **close)
    assert np.abs(np.asarray(state.x) - x).max() > 0.05
    assert (np.abs(np.asarray(state.parameters) - before).max(axis=(1, 2)) > 0.05).all()
