"""People who rate: questions and answers in a run folder, agreement, and a page to answer on (extra `[rate]`)."""

from bilevel_rl.rating.agreement import Agreement as Agreement, agreement as agreement
from bilevel_rl.rating.ratings import HumanRatings as HumanRatings
from bilevel_rl.rating.serving import RatingPage as RatingPage
from bilevel_rl.rating.store import AnswerStore as AnswerStore, Progress as Progress, Question as Question
