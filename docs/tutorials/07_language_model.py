# %% [markdown]
# # Reward learning for a language model
#
# **People tell you what they think of texts. Which reward makes a language model write what they like?**
#
# The follower is a language model here: it learns to write what a reward asks for. The leader moves the reward to where
# the texts of *that* follower please people. You write a reward, let somebody answer, train, stop and go on, and take
# the learned reward elsewhere. The model has 21,000 weights: all of it takes a minute and no download. You need the
# extra `lm`: `pip install 'bilevel-rl[lm]'`.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, HumanScore

torch.set_num_threads(1)  # The model is so small that threads would wait for each other.

# %% [markdown]
# ## A model that writes reviews
#
# **With a model of your own this is `AutoModelForCausalLM.from_pretrained(…)` and its tokenizer.** Here a transformer
# learns to write short reviews with one to three judgements, in any order. From then on its weights are frozen.

# %%
NICE, NASTY = ["good", "great", "friendly"], ["slow", "bad"]
WORDS = ["<s>", "</s>", "<pad>", "the", "food", "service", "was", "and", *NICE, *NASTY]
rng = np.random.default_rng(0)


def review(subject):
    """One to three different judgements, in any order."""
    judgements = rng.choice(NICE + NASTY, rng.integers(1, 4), replace=False)
    return f"the {subject} was {' and '.join(judgements)}"


words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def trained_on_reviews():
    """A transformer after 200 steps on random reviews."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **size, **ids))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        texts = [f"{review(rng.choice(['food', 'service']))} </s>" for _ in range(32)]
        rows = tokenizer(texts, padding=True, return_tensors="pt")
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)
        loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


reference = trained_on_reviews()
print(f"{reference.num_parameters():,} weights")

# %% [markdown]
# ## Who answers
#
# Anything that takes texts, and a seed for what is random in the answers, and gives a number for each text: a survey, a
# page in a browser ([let people rate](../how_to/rating.md)), a person at a terminal. This page must run alone, so a
# function stands for people. They like every nice word once, dislike the nasty ones, and find repetition silly.


# %%
def repeated(text):
    """How many judgements come again."""
    judgements = [word for word in text.split() if word in NICE + NASTY]
    return len(judgements) - len(set(judgements))


def people(texts, seed=0):
    """A score for each text."""
    there = [set(text.split()) for text in texts]
    liking = [len(words & set(NICE)) - len(words & set(NASTY)) for words in there]
    return [like - 2.0 * repeated(text) for like, text in zip(liking, texts, strict=True)]


for text in ("was slow", "was good and friendly", "was great and great and great"):
    print(f"people say {people([text])[0]:4.1f}: {text}")

# %% [markdown]
# ```text
# people say -1.0: was slow
# people say  2.0: was good and friendly
# people say -3.0: was great and great and great
# ```
#
# No text of ten words can please them more than 3.
#
# ## A reward with weights
#
# A reward model is any PyTorch module from `RewardInputs` to one number for each text; its parameters are the leader's
# x. The inputs hold the texts, their tokens, and the frozen model's mean hidden state of each (`inputs.states`), from
# which `RewardHead` learns. Here six weights will do, so that you can read what is learned: one for each judgement, and
# one for repetition.

# %%
FEATURES = [*NICE, *NASTY, "repeated"]


class WordReward(nn.Module):
    """The sum of the weights of what is in a text."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(len(FEATURES)))

    def of(self, texts):
        """A number for each text."""
        rows = [[float(word in text.split()) for word in NICE + NASTY] + [float(repeated(text))] for text in texts]
        return torch.tensor(rows) @ self.weights

    def forward(self, inputs):
        """What the trainer calls."""
        return self.of(inputs.texts)


# %% [markdown]
# ## Training
#
# The prompts of `train_dataset` are how texts begin. `beta` is what the follower pays to leave the frozen model: the
# smaller, the further a reward can take it. `judges` are logged and nothing learns from them; here they are the same
# people.
#
# Preferences that were collected before are another argument, `preference_dataset`. There are none here, so that all
# that the reward knows comes from what people say of the follower's texts.


# %%
def trainer_for(num_steps):
    """A trainer with its folder. The same arguments in the same folder are the same run."""
    return BilevelRLHFTrainer(
        model=copy.deepcopy(reference),  # A trainer wraps its layers.
        reward_model=WordReward(),
        args=BilevelRLHFConfig(
            "runs/reviews",
            max_steps=num_steps,
            max_completion_length=10,
            beta=0.2,
            upper_learning_rate=0.05,
            learning_rate=3e-3,
            critic_learning_rate=3e-3,
        ),
        train_dataset=[{"prompt": "the food"}, {"prompt": "the service"}],
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        upper_objective=HumanScore(people, identity="people of the tutorial"),
        judges={"people": people},
    )


trainer = trainer_for(40)
before = trainer.complete(12)
first = trainer.train(progress=False)


def show(weights):
    """One line."""
    return ", ".join(f"{name} {weight:.2f}" for name, weight in zip(FEATURES, weights, strict=True))


print("weights:", show(first.x["weights"][0]))  # [0]: there is one seed.

# %% [markdown]
# ## Stop and go on
#
# The folder `runs/reviews` holds checkpoints, metrics and what was learned. A trainer that is built alike, in another
# process or on another day, goes on from the last checkpoint, with the same random numbers as if it had never stopped.
# So you continue a run by asking for more iterations:

# %%
trainer = trainer_for(150)
result = trainer.train(progress=False)
metrics, weights = result.metrics, result.x["weights"][0]
print(f"{metrics['num_iterations'][-1]} iterations, {metrics['num_answers'][-1]:,} answers")
print("weights:", show(weights))

# %% [markdown]
# ```text
# 150 iterations, 2,400 answers
# ```
#
# Our run had these weights. Other versions of PyTorch round differently, so yours will differ a little.
#
# | iterations | good | great | friendly | slow | bad | repeated |
# |---|---|---|---|---|---|---|
# | 40 | 0.59 | 0.84 | −0.80 | −1.16 | −1.17 | −0.63 |
# | 150 | 0.96 | 0.57 | 0.41 | −1.42 | −1.10 | −1.23 |
#
# At the end all signs are right; after 40 iterations that of *friendly* was still wrong.
#
# ## What came out
#
# `metrics` has a row for every iteration: [what each column is](../how_to/language_models.md#what-a-run-logs).
# Look at three of them together. `lower_mean_reward` is what the follower is paid, `lower_judge_people` is what people
# think of the same texts, and `lower_mean_divergence` is how far it is from the frozen model. Where the reward rises
# and people's score falls, the follower has found a fault of the reward.

# %%
for column in ("lower_mean_reward", "lower_judge_people", "lower_mean_divergence"):
    print(f"{column:21}: {metrics[column][:20].mean():5.2f} at first, {metrics[column][-20:].mean():5.2f} at last")
after = trainer.complete(12)
print("before:", *before, sep="\n    ")
print("after:", *after, sep="\n    ")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for column, label, colour in (
    ("lower_mean_reward", "reward", "#3366aa"),
    ("lower_judge_people", "people", "#cc4422"),
):
    left.plot(metrics["num_iterations"], metrics[column], color=colour, alpha=0.2)
    smooth = np.convolve(metrics[column], np.full(10, 0.1), mode="valid")
    left.plot(metrics["num_iterations"][9:], smooth, color=colour, label=label)
left.set(xlabel="iteration", title="Mean score of the follower's texts")
left.legend()
places = np.arange(len(FEATURES))
right.bar(places - 0.2, first.x["weights"][0], 0.4, color="#3366aa", alpha=0.4, label="after 40 iterations")
right.bar(places + 0.2, weights, 0.4, color="#3366aa", label="at the end")
right.axhline(0.0, color="black", linewidth=0.8)
right.set_xticks(places, FEATURES, fontsize=8)
right.set(title="The weights of the reward")
right.legend(fontsize=8)
figure.savefig("07_language_model.png", dpi=100)

# %% [markdown]
# ![Scores of the follower's texts, and the weights of the reward](../images/tutorials/07_language_model.png)
#
# *Left: faint lines are single iterations of 16 texts, strong ones the mean of ten. Right: every weight starts at 0.*
#
# People's score of the follower's texts rose from 0.0 (the first 20 iterations) to 0.7 (the last 20), at 1.0 nats from
# the frozen model. The same random numbers wrote both sets of twelve texts. Eight had *slow* or *bad* in them before,
# and five after; most did not change:
#
# | before | after |
# |---|---|
# | was bad | was bad |
# | was great and friendly and friendly | was great |
# | was bad | was good |
# | was slow | was great |
# | was bad and great and friendly | was good |
#
# So this follower writes fewer bad words, and is far from the best score of 3. It is one run with one seed, and 16
# texts are few for an iteration. It is also the first of six settings that were tried: in two of the others the policy
# collapsed, and in two the reward did not find that *friendly* is good. To say that one reward or method is better than
# another takes several seeds, and a judge that had no part in the training: [a study that has
# both](../reports/language_models.md).
#
# ## Take the reward elsewhere
#
# `runs/reviews/reward.safetensors` holds x. It scores any text, also where there is no trainer. The follower stands
# beside it as a LoRA adapter, `adapters/lower`, which `peft.PeftModel.from_pretrained` loads onto the frozen model.

# %%
learned = WordReward()
learned.load_state_dict(load_file("runs/reviews/reward.safetensors"))
print("the same weights:", np.array_equal(learned.weights.detach().numpy(), weights))
for text in ("was slow", "was good and friendly", "was great and great and great"):
    print(f"reward {float(learned.of([text])):5.2f}, people {people([text])[0]:4.1f}: {text}")

# %% [markdown]
# ```text
# the same weights: True
# ```
#
# In our run the three texts have rewards of −1.4, 1.4 and −1.9. People say −1, 2 and −3: the order is the same, the
# scale is not. The leader does not fit what people say. It wants a reward whose follower writes what people like.
#
# ## Now you
#
# 1. **Other people.** Let them like short texts: subtract 0.5 for each word in `people`. The reward has no feature of
#    length. What does it do instead? Then give it one.
# 2. **What was collected before.** Give `preference_dataset=[{"prompt": "the food", "chosen": "was great", "rejected":
#    "was bad"}]`, with a dozen such rows. Do the weights find their signs sooner?
# 3. **A shorter leash.** Set `beta=1.0`. How far do the follower's texts move now?
#
# A model of your own, conversations, several processes: [language models](../how_to/language_models.md). What happens
# to a reward that stays as it is: [why a fixed reward breaks](../explanation/fixed_reward.md).
