"""Measures of a policy's texts, by hand and against enumeration."""

import numpy as np
import pytest
import torch

from bilevel_rl.lm import evaluate
from bilevel_rl.lm.evaluation import Evaluation, distinct
from bilevel_rl.lm.followers import REFERENCE
from lm.tiny_models import all_completions, log_probs, token_log_policies
from lm.tiny_trainers import score, text_number, trainer

JUDGES = {"length": lambda texts: [len(text.split()) for text in texts], "score": score}


def test_distinct_by_hand():
    texts = ["the cat sat", "The cat ran", "a", ""]
    assert distinct(texts, 1) == 5 / 7  # the, cat, sat, ran, a
    assert distinct(texts, 2) == 3 / 4  # the cat, cat sat, cat ran
    assert distinct(["a b", "a b"], 2) == 0.5
    assert distinct(["a", ""], 2) == 0.0


def test_pairs_of_words_do_not_reach_over_texts():
    assert distinct(["a b", "c d"], 2) == 1.0
    assert distinct(["a", "b"], 2) == 0.0


@pytest.mark.parametrize("policy", ["lower", "penalized"])
def test_measures_agree_with_their_enumerated_means(tmp_path, policy):
    built = trainer(tmp_path, per_device_train_batch_size=100)
    found = evaluate(built, policy, JUDGES, num_completions=1000, seed=4)
    texts = all_completions()
    with torch.no_grad():
        log_policies = token_log_policies(built.followers, policy, texts)
        log_reference = token_log_policies(built.followers, REFERENCE, texts)
    log_p, log_q = log_probs(log_policies, texts), log_probs(log_reference, texts)
    p = log_p.exp()
    decoded = texts.texts(built.tokenizer)
    exact = {
        "divergence": float((p * (log_p - log_q)).sum()),  # KL of whole texts is the sum of the tokens' KLs
        "perplexity_nats": float((p * -log_q / texts.mask.sum(dim=1)).sum()),
        "reward": float((p * built.reward_model.table.detach()[text_number(texts)]).sum()),
        "score": float((p * torch.tensor(score(decoded))).sum()),
        "length": float((p * torch.tensor(JUDGES["length"](decoded))).sum()),
    }
    assert found.scores.keys() == exact.keys()
    for name, values in found.scores.items():
        assert values.shape == (1000,)
        assert abs(values.mean() - exact[name]) <= 4 * values.std(ddof=1) / 1000**0.5, name
    assert exact["divergence"] > 0.2
    assert found.scores["divergence"].min() > 0


def test_numbers_stand_beside_their_texts(tmp_path):
    built = trainer(tmp_path, per_device_train_batch_size=3)
    found = evaluate(built, "penalized", JUDGES, num_completions=10, seed=4)
    assert found.texts == built.complete(10, policy="penalized", seed=4)
    assert found.scores["score"].tolist() == score(found.texts)
    assert len(found.scores["reward"]) == 10
    assert found.distinct_1 == distinct(found.texts, 1)
    assert found.distinct_2 == distinct(found.texts, 2)


def test_the_reference_does_not_diverge_from_itself(tmp_path):
    built = trainer(tmp_path)
    assert not evaluate(built, REFERENCE, {}, num_completions=8, seed=0).scores["divergence"].any()
    assert evaluate(built, "lower", {}, num_completions=8, seed=0).scores["divergence"].all()


def test_a_summary_by_hand():
    scores = {"judge": np.array([1.0, 2.0, 6.0]), "perplexity_nats": np.array([0.0, 1.0, 2.0])}
    row = Evaluation(["a", "b", "a"], scores, 0.75, 0.5).summary()
    deviation = ((4 + 1 + 9) / 2) ** 0.5
    expected = {"distinct_1": 0.75, "distinct_2": 0.5, "judge": 3.0, "judge_se": deviation / 3**0.5, "perplexity": np.e}
    assert row == pytest.approx(expected)


def test_evaluation_changes_nothing(tmp_path):
    built = trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in built.tensors().items()}
    evaluate(built, "lower", JUDGES, num_completions=5, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.tensors().items())
    assert all(weight.grad is None for weight in [*built.followers.parameters(), *built.reward_model.parameters()])
    assert (built.num_transitions, built.num_answers) == (0, 0)
