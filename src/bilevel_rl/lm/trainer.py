"""Algorithm 1 on a language model: the reward moves while two policies learn from it, all from the same completions.

Source: Zeng, Bhatt, Ganesh, Koppel, "A Hessian-Free Actor-Critic Algorithm for Bi-Level Reinforcement Learning with
Applications to LLM Fine-Tuning", AISTATS 2026 (arXiv 2601.16399). Equation names: docs/explanation/method.md, section
4.

| symbol | name            | meaning                                                                    |
|--------|-----------------|----------------------------------------------------------------------------|
| x      | `reward_model`  | parameters of the reward r_x(y) of a whole completion                      |
| θ, V   | `"lower"`       | adapter and critic: track π_τ*(x), the policy that the reward asks for     |
| θᴸ, Vᴸ | `"penalized"`   | adapter and critic: track π^L, optimal for r_x − w c                       |
| ζ, α, β| `upper`, `actor`, `critic` | step sizes of x, the policies, the critics                      |
| w, τ   | `penalty`, `entropy` | penalty parameter (smaller is harder) and entropy weight              |

Deviations from the paper, besides those of `algorithms.single_loop`:

1. An episode is a completion: it starts with a prompt, ends with the end mark or after T tokens, and is not discounted.
   So there is no restart, and an iteration uses whole completions, every token of which is a transition.
2. The reference policy's log-probabilities are a part of the reward; their mean over the action stands in δ
   (`estimators.regularizer`), as the entropy's does.
3. Advantages are generalized ones; `gae_lambda=0` is the paper's δ.
4. Steps go through an optimizer (Adam by default), and long gradients are shortened.
5. Critics are not clipped: log π_ref has no bound.
6. The difference in (U) is estimated from all completions under both policies (`estimators.balance_weights`).
"""

from bilevel_rl.lm.penalty import TwoPolicyTrainer
from bilevel_rl.lm.rows import StepSizeNumbers


class BilevelRLHFTrainer(TwoPolicyTrainer):
    """Moves a reward to where the policy that optimizes it writes what people like.

    Minimizes Φ(x) = f(x, π*(x)) + λ NLL_D(x) by one first-order loop.

    Arguments are those of TRL's trainers where it has the same.

    Args:
        model: a causal language model, or the path of one. It is frozen, and its layers are wrapped in place.
        reward_model: r_x, any module from `RewardInputs` to one number a row, whose parameters are x; reward functions,
            a list or by name, whose weights are x (`WeightedRewards`); or a sequence classifier, whose head or adapter
            is x (`ClassifierReward`).
        args: options; by default all defaults, in a folder that is named after the model.
        train_dataset: rows with a "prompt" that completions begin with, a text or a conversation: a list, or a
            `datasets.Dataset`; or only texts or conversations. An empty text is the start mark alone.
        processing_class: the model's tokenizer, with an end mark and a padding token; by default that of the model's
            path.
        peft_config: form of the adapters, as `LoraConfig`; None, as in TRL, for full fine-tuning: a copy of the model
            for each policy.
        callbacks: transformers' callbacks, told of steps, rows and checkpoints; `should_training_stop` ends the run.
        upper_objective: f, what the leader wants of completions.
        preference_dataset: D, rows with "chosen" and "rejected" (and "prompt"), texts or conversations; None for no
            offline term.
        judges: name to scorer: columns of the metric rows that nothing learns from.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message names it.

    Warns:
        UserWarning: pairs of `preference_dataset` are the same once they are cut to `max_completion_length`.
        ScheduleWarning: the step sizes violate a validity condition (docs/explanation/method.md, section 4).
    """

    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """y ~ π_θ, yᴸ ~ π_θᴸ; then (U), (A), (C), (AL), (CL), all from iteration k's values."""
        columns = self._accumulate(k, step_size)
        columns["preference_loss"] = self._add_preference_gradient(k)
        columns["hyper_gradient_norm"] = self.steps.move("upper", step_size.upper)  # (U)
        self.steps.move("actor", step_size.actor)  # (A), (AL)
        self.steps.move("critic", step_size.critic)  # (C), (CL)
        return columns
