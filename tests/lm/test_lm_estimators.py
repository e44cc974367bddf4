"""Estimators against automatic differentiation, hand-computed numbers and enumeration."""

import pytest
import torch

from bilevel_rl.lm import estimators


def laws(num_rows=5, num_tokens=4, seed=0):
    """Logits of a policy and of a reference, different in every row, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = 2 * torch.randn(2, num_rows, num_tokens, generator=generator, dtype=torch.float64) + 1
    return logits.requires_grad_(), reference


ACTIONS, ADVANTAGES = torch.tensor([0, 3, 3, 1, 2]), torch.tensor([1.5, -2.0, 0.0, 0.3, -0.7]).double()


@pytest.mark.parametrize(("β", "τ"), [(0.0, 0.7), (0.3, 0.3), (0.9, 0.2), (0.4, 0.0), (0.0, 0.0)])
def test_direction_is_the_gradient_of_advantage_times_log_policy_plus_regularizer(β, τ):
    logits, reference = laws()
    log_policy, log_reference = torch.log_softmax(logits, dim=1), torch.log_softmax(reference, dim=1)
    chosen = log_policy.gather(1, ACTIONS[:, None]).squeeze(1)
    regularizer = (log_policy.exp() * (β * log_reference - τ * log_policy)).sum(dim=1)
    (ADVANTAGES * chosen + regularizer).sum().backward()
    row = estimators.direction(ADVANTAGES, ACTIONS, logits.detach(), reference, β, τ)
    torch.testing.assert_close(row, logits.grad, rtol=1e-12, atol=1e-12)


def test_direction_without_a_reference_is_the_papers_step():
    logits, reference = laws()
    δ, τ = ADVANTAGES, 0.7
    log_policy = torch.log_softmax(logits.detach(), dim=1)
    policy = log_policy.exp()
    score = torch.eye(4, dtype=torch.float64)[ACTIONS] - policy
    entropy = -(policy * log_policy).sum(dim=1, keepdim=True)
    expected = δ[:, None] * score + τ * -policy * (log_policy + entropy)
    row = estimators.direction(δ, ACTIONS, logits.detach(), reference, 0.0, τ)
    torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)


def test_direction_leaves_its_arguments_alone():
    arguments = [ADVANTAGES, ACTIONS, *(table.detach() for table in laws())]
    before = [argument.clone() for argument in arguments]
    estimators.direction(*arguments, 0.3, 0.2)
    assert all(torch.equal(argument, old) for argument, old in zip(arguments, before, strict=True))


def test_regularizer_is_minus_beta_kl_where_tau_is_beta():
    logits, reference = (table.detach() for table in laws())
    log_policy, log_reference = torch.log_softmax(logits, dim=1), torch.log_softmax(reference, dim=1)
    kl = (log_policy.exp() * (log_policy - log_reference)).sum(dim=1)
    regularizer = estimators.regularizer(logits, reference, 0.6, 0.6)
    torch.testing.assert_close(regularizer, -0.6 * kl, rtol=1e-12, atol=1e-12)
    assert (regularizer < -0.01).all()


def test_regularizer_is_exactly_zero_at_the_reference_where_tau_is_beta():
    logits = laws(num_tokens=1000)[1].float()
    assert torch.equal(estimators.regularizer(logits, logits.clone(), 0.6, 0.6), torch.zeros(5))


def test_regularizer_is_weighted_entropy_and_cross_entropy_apart():
    policy, reference = torch.tensor([[0.25, 0.75]]).double(), torch.tensor([[0.5, 0.5]]).double()
    entropy = 0.5623351446188083  # −¼ ln ¼ − ¾ ln ¾
    value = estimators.regularizer(policy.log() + 3.0, reference.log() - 2.0, 2.0, 3.0)
    torch.testing.assert_close(value, torch.tensor([2.0 * -0.6931471805599453 + 3.0 * entropy]).double())


REWARDS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0], [6.0, 99.0, 99.0]])
VALUES = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 77.0], [60.0, 77.0, 77.0]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])


def test_temporal_differences_by_hand_of_rows_with_different_lengths():
    δ = estimators.temporal_differences(REWARDS, VALUES, MASK, 0.5)
    # 1 + 10 − 10, 2 + 15 − 20, 3 − 30; 4 + 25 − 40, 5 − 50; 6 − 60
    assert δ.tolist() == [[1.0, -3.0, -27.0], [-11.0, -45.0, 0.0], [-54.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (0.0, [[1.0, -3.0, -27.0], [-11.0, -45.0, 0.0], [-54.0, 0.0, 0.0]]),
        # γλ = 1/4: −3 − 27/4, 1 − 9.75/4; −11 − 45/4
        (0.5, [[-1.4375, -9.75, -27.0], [-22.25, -45.0, 0.0], [-54.0, 0.0, 0.0]]),
        # γ = 1/2: −3 − 27/2, 1 − 16.5/2; −11 − 45/2
        (1.0, [[-7.25, -16.5, -27.0], [-33.5, -45.0, 0.0], [-54.0, 0.0, 0.0]]),
    ],
)
def test_advantages_by_hand(gae_lambda, expected):
    δ = estimators.temporal_differences(REWARDS, VALUES, MASK, 0.5)
    assert estimators.advantages(δ, 0.5, gae_lambda).tolist() == expected


def test_advantages_at_lambda_one_are_returns_less_values():
    δ = estimators.temporal_differences(REWARDS, VALUES, MASK, 0.5)
    # 1 + 2/2 + 3/4, 2 + 3/2, 3; 4 + 5/2, 5; 6
    returns = torch.tensor([[2.75, 3.5, 3.0], [6.5, 5.0, 0.0], [6.0, 0.0, 0.0]])
    expected = torch.where(MASK, returns - VALUES, 0.0)
    assert torch.equal(estimators.advantages(δ, 0.5, 1.0), expected)


def test_what_is_not_a_number_after_the_end_does_not_spread():
    rewards, values = REWARDS.where(MASK, torch.nan), VALUES.where(MASK, torch.nan)
    δ = estimators.temporal_differences(rewards, values, MASK, 0.5)
    assert torch.equal(δ, estimators.temporal_differences(REWARDS, VALUES, MASK, 0.5))


def test_balance_weights_turn_the_mixture_into_the_difference_of_the_means():
    generator = torch.Generator().manual_seed(3)
    p, q = torch.softmax(3 * torch.randn(2, 20, generator=generator, dtype=torch.float64), dim=1)
    g = torch.randn(20, generator=generator, dtype=torch.float64)
    weights = estimators.balance_weights(p.log() - q.log())
    torch.testing.assert_close(((p + q) / 2 * weights * g).sum(), (p * g - q * g).sum(), rtol=1e-12, atol=1e-14)


def test_log_ratios_have_the_sign_of_the_first_policy():
    own, other = torch.tensor([-1.0, -2.0, -3.0, -5.0]), torch.tensor([-1.5, -4.0, -2.0, -9.0])
    assert torch.equal(estimators.log_ratio(own, other), torch.tensor([0.5, 2.0, 1.0, -4.0]))


def test_balance_weights_are_bounded_odd_and_vanish_where_the_policies_meet():
    Δ = torch.tensor([-1e4, -3.0, -1e-3, 0.0, 1e-3, 3.0, 1e4]).double()
    weights = estimators.balance_weights(Δ)
    assert weights.abs().max() <= 2
    assert weights[[0, -1]].tolist() == [-2.0, 2.0]
    assert torch.equal(weights, -weights.flip(0))
    assert weights[3] == 0
    torch.testing.assert_close(weights[4], Δ[4], rtol=1e-6, atol=0.0)


def test_plain_weights_make_the_difference_of_the_two_halves_means():
    rewards = torch.tensor([1.0, 4.0, 7.0, 2.0, -3.0, 11.0])
    weights = estimators.plain_weights(6, torch.device("cpu"))
    assert weights.tolist() == [2.0, 2.0, 2.0, -2.0, -2.0, -2.0]
    torch.testing.assert_close(estimators.reward_difference(rewards, weights), torch.tensor(4.0 - 10 / 3))


def test_rewards_of_texts_come_with_their_last_tokens():
    table = estimators.at_the_end(torch.tensor([1.5, -2.5, 3.5]), MASK)
    assert table.tolist() == [[0.0, 0.0, 1.5], [0.0, -2.5, 0.0], [3.5, 0.0, 0.0]]
