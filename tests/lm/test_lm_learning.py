"""(A), (C), (AL), (CL): expected steps, enumerated over all texts, against gradients of the exact objective."""

import pytest
import torch

from bilevel_rl.lm import learning
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.learning import PolicyPass, Regularization, gather_evidence
from lm.tiny_models import (
    END,
    TABLE_ADAPTER,
    all_completions,
    free_tables,
    llama,
    log_probs,
    prefix_number,
    prefix_table,
    randomize,
    token_log_policies,
)

NAMES = ("lower", "penalized")
W = 0.6
β, τ = 0.3, 0.8


def a_llama():
    return randomize(Followers(llama(), NAMES), scale=0.2)


def a_table():
    followers = Followers(prefix_table(), NAMES, TABLE_ADAPTER)
    free_tables(followers)
    return randomize(followers)


MODELS = {"llama": a_llama, "table": a_table}


@pytest.fixture(params=MODELS)
def followers(request):
    return MODELS[request.param]()


def rewards_and_costs(completions):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, len(completions.ids), generator=generator)


def learned_rewards(name, completions):
    r, c = rewards_and_costs(completions)
    return r if name == "lower" else r - W * c


def token_regularizers(log_policies, log_reference, β, τ):
    policies = log_policies.exp()
    return (policies * (β * log_reference - τ * log_policies)).sum(dim=-1)


def objective(followers, name, completions, rewards, β, τ):
    """J = Σ_y π(y) [r(y) + Σ_t R(s_t)], differentiable."""
    log_policies = token_log_policies(followers, name, completions)
    log_reference = token_log_policies(followers, REFERENCE, completions).detach()
    R = torch.where(completions.mask, token_regularizers(log_policies, log_reference, β, τ), 0.0).sum(dim=1)
    return (log_probs(log_policies, completions).exp() * (rewards + R)).sum()


def one_row_step(followers, name, completions, row, rewards, β, τ, *, gae_lambda, discount=1.0):
    """What `ascend` leaves for one text alone, negated: the step's direction for the adapter, and for the critic."""
    weights = followers.adapter(name) + followers.critic(name)
    followers.zero_grad()
    single = completions.select(slice(row, row + 1))
    reference_states = gather_evidence(followers, single, None).reference_states
    policy_pass = PolicyPass(followers, [name], single, reference_states, {name: Regularization(β, τ)})
    policy_pass.ascend(rewards[row : row + 1], discount=discount, gae_lambda=gae_lambda, num_rows=1)
    return [torch.zeros_like(weight) if weight.grad is None else -weight.grad for weight in weights]


def expected_step(followers, name, completions, rewards, β, τ, **options):
    """Σ_y π(y) (step for y): adapter's, critic's."""
    with torch.no_grad():
        p = log_probs(token_log_policies(followers, name, completions), completions).exp()
    total = None
    for row in range(len(p)):
        steps = one_row_step(followers, name, completions, row, rewards, β, τ, **options)
        total = [p[row] * step + (0.0 if total is None else total[i]) for i, step in enumerate(steps)]
    count = len(followers.adapter(name))
    return total[:count], total[count:]


def exact_gradient(followers, name, completions, rewards, β, τ):
    followers.zero_grad()
    objective(followers, name, completions, rewards, β, τ).backward()
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in followers.adapter(name)]


def assert_same(steps, gradients):
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0.05
    for step, gradient in zip(steps, gradients, strict=True):
        torch.testing.assert_close(step.to(gradient.dtype), gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("end_id", [END, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_expected_step_is_the_gradient_of_the_objective_whatever_the_critic_says(followers, name, end_id):
    completions = all_completions(end_id=end_id)
    rewards = learned_rewards(name, completions)
    steps, _ = expected_step(followers, name, completions, rewards, β, τ, gae_lambda=1.0)
    assert_same(steps, exact_gradient(followers, name, completions, rewards, β, τ))


def test_the_expected_step_without_rewards_and_reference_raises_the_entropy(followers):
    completions = all_completions()
    nothing = torch.zeros(15)
    steps, _ = expected_step(followers, "penalized", completions, nothing, 0.0, τ, gae_lambda=1.0)
    assert_same(steps, exact_gradient(followers, "penalized", completions, nothing, 0.0, τ))


def prefixes(completions):
    """Numbers of the states that every row's tokens are chosen in."""
    columns = [prefix_number(completions.ids[:, :t], 3) for t in range(completions.ids.shape[1])]
    return torch.stack(columns, dim=1)


def exact_values(followers, name, completions, rewards, β, τ, discount=1.0):
    """V(s) and the expected number of visits of all 13 prefixes, by enumeration."""
    with torch.no_grad():
        log_policies = token_log_policies(followers, name, completions)
        log_reference = token_log_policies(followers, REFERENCE, completions)
    p = log_probs(log_policies, completions).exp()
    R = torch.where(completions.mask, token_regularizers(log_policies, log_reference, β, τ), 0.0)
    last = completions.mask.sum(dim=1) - 1
    learned = R + torch.nn.functional.one_hot(last, R.shape[1]) * rewards[:, None].double()
    states, value_sums, visits = prefixes(completions), torch.zeros(13).double(), torch.zeros(13).double()
    for y in range(len(p)):
        for t in range(int(last[y]) + 1):
            tail = learned[y, t : last[y] + 1]
            value = (discount ** torch.arange(len(tail)) * tail).sum()
            value_sums[states[y, t]] += p[y] * value
            visits[states[y, t]] += p[y]
    return torch.where(visits > 0, value_sums / visits.clamp(min=1e-30), 0.0), visits


def set_values(followers, name, values):
    weight, bias = followers.critic(name)
    with torch.no_grad():
        weight.copy_(values[None])
        bias.zero_()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5])
def test_one_step_advantages_give_the_gradient_where_the_critic_is_exact(name, gae_lambda):
    followers, completions = a_table(), all_completions()
    rewards = learned_rewards(name, completions)
    exact = exact_gradient(followers, name, completions, rewards, β, τ)
    biased, _ = expected_step(followers, name, completions, rewards, β, τ, gae_lambda=gae_lambda)
    assert max(float((step - gradient).abs().max()) for step, gradient in zip(biased, exact, strict=True)) > 0.05
    set_values(followers, name, exact_values(followers, name, completions, rewards, β, τ)[0])
    steps, _ = expected_step(followers, name, completions, rewards, β, τ, gae_lambda=gae_lambda)
    assert_same(steps, exact)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_an_exact_critic_is_not_moved_in_expectation(name, gae_lambda, discount):
    followers, completions = a_table(), all_completions(end_id=3)
    rewards = learned_rewards(name, completions)
    values, _ = exact_values(followers, name, completions, rewards, β, τ, discount)
    set_values(followers, name, values)
    options = {"gae_lambda": gae_lambda, "discount": discount}
    _, (weight, bias) = expected_step(followers, name, completions, rewards, β, τ, **options)
    torch.testing.assert_close(weight, torch.zeros_like(weight), rtol=0.0, atol=2e-6)
    torch.testing.assert_close(bias, torch.zeros_like(bias), rtol=0.0, atol=2e-6)
    single = one_row_step(followers, name, completions, 5, rewards, β, τ, **options)
    assert single[-2].abs().max() > 0.1, "one text does move it"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_a_critic_moves_toward_the_exact_values_at_lambda_one(name, discount):
    followers, completions = a_table(), all_completions()
    rewards = learned_rewards(name, completions)
    values, visits = exact_values(followers, name, completions, rewards, β, τ, discount)
    weight, bias = followers.critic(name)
    now = (weight[0] + bias).detach()
    _, (step, bias_step) = expected_step(followers, name, completions, rewards, β, τ, gae_lambda=1.0, discount=discount)
    expected = visits * (values - now)
    torch.testing.assert_close(step[0].double(), expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(bias_step[0].double(), expected.sum(), rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_a_critic_moves_toward_the_bellman_target_at_lambda_zero():
    followers, completions, discount = a_table(), all_completions(end_id=3), 0.7
    rewards = learned_rewards("penalized", completions)
    weight, bias = followers.critic("penalized")
    now = (weight[0] + bias).detach().double()
    with torch.no_grad():
        log_policies = token_log_policies(followers, "penalized", completions)
        log_reference = token_log_policies(followers, REFERENCE, completions)
    R, states = token_regularizers(log_policies, log_reference, β, τ), prefixes(completions)
    p, expected = log_probs(log_policies, completions).exp(), torch.zeros(13).double()
    for y in range(27):
        for t in range(3):
            target = R[y, t] + (rewards[y] if t == 2 else discount * now[states[y, t + 1]])
            expected[states[y, t]] += p[y] * (target - now[states[y, t]])
    _, (step, _) = expected_step(followers, "penalized", completions, rewards, β, τ, gae_lambda=0.0, discount=discount)
    torch.testing.assert_close(step[0].double(), expected, rtol=1e-4, atol=2e-6)


REGULARIZATION = {
    "lower": Regularization(β, τ),
    "penalized": Regularization(0.5, 1.1),
    REFERENCE: Regularization(0.2, 0.7),
}


def a_pass(followers, rows, completions):
    reference_states = gather_evidence(followers, completions, None).reference_states
    return PolicyPass(followers, rows, completions, reference_states, REGULARIZATION)


def gradients_of(followers):
    return {path: weight.grad.clone() for path, weight in followers.named_parameters() if weight.grad is not None}


ROWS = ["penalized", "lower", "lower", "penalized", "lower", "penalized", *["lower"] * 4, *["penalized"] * 5]


def test_a_mixed_batch_leaves_what_its_rows_leave_one_by_one(followers):
    completions = all_completions()
    rewards = rewards_and_costs(completions)[0]
    options = {"discount": 0.9, "gae_lambda": 0.5, "num_rows": 4}
    followers.zero_grad()
    δ = a_pass(followers, ROWS, completions).ascend(rewards, **options)
    mixed = gradients_of(followers)
    followers.zero_grad()
    parts = [
        a_pass(followers, [name], single).ascend(rewards[row : row + 1], **options)
        for row, name in enumerate(ROWS)
        for single in [completions.select(slice(row, row + 1))]
    ]
    torch.testing.assert_close(δ, torch.cat(parts), rtol=1e-4, atol=1e-5)
    alone = gradients_of(followers)
    assert mixed.keys() == alone.keys()
    for path, gradient in mixed.items():
        torch.testing.assert_close(gradient, alone[path], rtol=1e-4, atol=1e-5)


def test_the_size_of_chunks_does_not_matter(followers, monkeypatch):
    completions = all_completions()
    rewards = rewards_and_costs(completions)[0]
    found = []
    for chunk in (learning.CHUNK, 4):
        monkeypatch.setattr(learning, "CHUNK", chunk)
        followers.zero_grad()
        policy_pass = a_pass(followers, ROWS, completions)
        numbers = torch.cat([policy_pass.log_probs, policy_pass.divergence])
        policy_pass.ascend(rewards, discount=0.9, gae_lambda=0.5, num_rows=4)
        found.append({"numbers": numbers} | gradients_of(followers))
    assert found[0].keys() == found[1].keys()
    for path, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][path], rtol=1e-4, atol=1e-5)


def test_gradients_of_passes_add_up_and_count_as_a_mean(followers):
    completions = all_completions()
    rewards = rewards_and_costs(completions)[0]
    options = {"discount": 1.0, "gae_lambda": 1.0}
    followers.zero_grad()
    for _ in range(2):
        a_pass(followers, ROWS, completions).ascend(rewards, num_rows=30, **options)
    twice = gradients_of(followers)
    followers.zero_grad()
    a_pass(followers, ROWS, completions).ascend(rewards, num_rows=15, **options)
    for path, gradient in gradients_of(followers).items():
        torch.testing.assert_close(twice[path], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*NAMES, REFERENCE])
def test_a_pass_describes_its_policy(followers, name):
    completions = all_completions()
    with torch.no_grad():
        policy_pass = a_pass(followers, [name] * 15, completions)
        log_policies = token_log_policies(followers, name, completions)
        log_reference = token_log_policies(followers, REFERENCE, completions)
    policies = log_policies.exp()

    def sums(table):
        return torch.where(completions.mask, table, 0.0).sum(dim=1).float()

    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(policy_pass.log_probs, log_probs(log_policies, completions).float(), **close)
    reference = log_probs(log_reference, completions).float()
    torch.testing.assert_close(policy_pass.reference_log_probs, reference, **close)
    torch.testing.assert_close(policy_pass.entropy, sums(-(policies * log_policies).sum(dim=2)), **close)
    divergence = sums((policies * (log_policies - log_reference)).sum(dim=2))
    torch.testing.assert_close(policy_pass.divergence, divergence, **close)
    R = token_regularizers(log_policies, log_reference, *REGULARIZATION[name])
    torch.testing.assert_close(policy_pass.regularizer, torch.where(completions.mask, R, 0.0).float(), **close)
    assert (divergence.max() > 0.1) == (name != REFERENCE)


def test_evidence_holds_the_references_states_the_others_log_probabilities_and_mean_states(followers):
    completions = all_completions()
    others = ["penalized" if name == "lower" else "lower" for name in ROWS]
    evidence = gather_evidence(followers, completions, others)
    with torch.no_grad():
        log_reference = token_log_policies(followers, REFERENCE, completions)[completions.mask]
        of_both = {name: log_probs(token_log_policies(followers, name, completions), completions) for name in NAMES}
        hidden = followers.hidden_states([REFERENCE] * 15, completions)
    close = {"rtol": 1e-4, "atol": 1e-5}
    logits = followers.logits([REFERENCE] * len(evidence.reference_states), evidence.reference_states)
    torch.testing.assert_close(torch.log_softmax(logits, 1), log_reference.float(), **close)
    expected = torch.stack([of_both[name][row] for row, name in enumerate(others)]).float()
    torch.testing.assert_close(evidence.other_log_probs, expected, **close)
    for row in range(15):
        length = int(completions.mask[row].sum())
        torch.testing.assert_close(evidence.states[row], hidden[row, 1 : 1 + length].mean(dim=0), **close)
    assert gather_evidence(followers, completions, None).other_log_probs is None
