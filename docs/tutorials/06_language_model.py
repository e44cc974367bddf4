# %% [markdown]
# # Reward learning for a language model
#
# **Why does a language model learn to please the reward model and not the people, and what helps?**
#
# A reward model is fitted to what people said about texts. Then a policy learns to write what the reward model likes,
# and finds texts that nobody was ever asked about. Here you see that happen with a model of 20,000 weights, and then
# let the reward move along. It takes a minute and no download. You need the extra `lm`: `pip install 'bilevel-rl[lm]'`.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, HumanScore, RewardHead, TwoStageRLHFTrainer, fit_reward

torch.set_num_threads(1)  # The model is so small that threads would wait for each other.

# %% [markdown]
# ## A model that writes reviews
#
# Twelve words, and a corpus of short reviews. A transformer learns to write like the corpus; after that it is the
# frozen *reference model*.

# %%
WORDS = ["<s>", "</s>", "<pad>", "the", "food", "service", "was", "and", "good", "great", "friendly", "slow", "bad"]
NICE, NASTY = {"good", "great", "friendly"}, {"slow", "bad"}
rng = np.random.default_rng(0)


def review():
    """One of the corpus: one to three judgements, at random."""
    judgements = rng.choice(["good", "great", "friendly", "slow", "bad"], rng.integers(1, 4), replace=False)
    return f"the {rng.choice(['food', 'service'])} was {' and '.join(judgements)}"


numbers = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
numbers.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=numbers, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def trained_on_reviews():
    """The reference model."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **size, **ids))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        rows = tokenizer([f"{review()} </s>" for _ in range(32)], padding=True, return_tensors="pt")
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)
        loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


reference = trained_on_reviews()
print("a review of the corpus:", review())

# %% [markdown]
# ## What people like
#
# A stand-in for people: they like each nice word once, dislike nasty words, and find it silly when a word comes twice.


# %%
def people(texts, seed=0):
    """A score for each text."""
    scores = []
    for text in texts:
        words = text.split()
        judgements = [word for word in words if word in NICE | NASTY]
        repeated = len(judgements) - len(set(judgements))
        scores.append(len(NICE & set(words)) - len(NASTY & set(words)) - 2.0 * repeated)
    return scores


for text in ("the food was slow", "the food was good and great", "the food was great and great and great"):
    print(people([text])[0], text)

# %% [markdown]
# ## Preferences, and a reward that fits them
#
# 300 pairs of reviews from the corpus, and which of the two people like better. In the corpus no review repeats a word,
# so no answer says anything about that.

# %%
pairs = [(review(), review()) for _ in range(400)]
ordered = [sorted(pair, key=lambda text: people([text])[0]) for pair in pairs if len(set(people(list(pair)))) == 2]
without_the = [[text.removeprefix("the ") for text in pair] for pair in ordered]
preferences = [{"prompt": "the", "chosen": better, "rejected": worse} for worse, better in without_the]
print(len(preferences), "preferences, such as", preferences[0])

# %% [markdown]
# ## Two ways to train, one setting
#
# The *two-stage* trainer fits the reward to the preferences, and then leaves it as it is. The *bi-level* trainer starts
# with the same fit, and then asks people about the texts that its policy writes: the reward moves to where the policy
# that optimizes it writes what people like. All other options are the same. `judges` are measured and not learned from.


# %%
def train(method, folder):
    """A trainer after 100 iterations."""
    model = copy.deepcopy(reference)  # A trainer wraps its layers.
    torch.manual_seed(1)
    head = RewardHead(model.config.hidden_size, hidden_size=16)
    options = {"max_steps": 100, "max_completion_length": 10, "beta": 0.05}
    steps = {"learning_rate": 3e-3, "critic_learning_rate": 3e-3, "upper_learning_rate": 5e-3}
    trainer = method(
        model=model,
        processing_class=tokenizer,
        reward_model=head,
        upper_objective=HumanScore(people),
        prompts=["the"],
        preference_dataset=preferences,
        args=BilevelRLHFConfig(folder, **options, **steps),
        judges={"people": people},
    )
    head.standardize(trainer.preferences.inputs.states)
    fit_reward(head, trainer.preferences, precision=1e-3)
    return trainer, trainer.train(progress=False)


trained = {
    "two-stage": train(TwoStageRLHFTrainer, "runs/two-stage"),
    "bi-level": train(BilevelRLHFTrainer, "runs/bilevel"),
}
for name, (trainer, result) in trained.items():
    reward = result.metrics["lower_mean_reward"][-20:].mean()
    score = result.metrics["lower_judge_people"][-20:].mean()
    print(f"{name}: the reward says {reward:.2f}, people say {score:.2f}")
    print("   ", trainer.complete(4))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True, layout="constrained")
for ax, (name, (_, result)) in zip(axes, trained.items(), strict=True):
    ax.plot(result.metrics["lower_mean_reward"], color="#3366aa", label="reward")
    ax.plot(result.metrics["lower_judge_people"], color="#cc4422", label="people")
    ax.set(title=name, xlabel="iteration")
axes[0].set(ylabel="mean over the policy's texts")
axes[0].legend()
figure.savefig("06_language_model.png", dpi=100)

# %% [markdown]
# ![What the reward says and what people say, for both trainers](../images/tutorials/06_language_model.png)
