"""The experiment from the command line, on a tiny model and made-up people."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from peft import LoraConfig

from benchmarks import happy_tweets_study
from benchmarks.happy_tweets_study import condense, curves, draw_happy_tweets_study
from bilevel_rl.cli import main
from bilevel_rl.figures.style import LIGHT
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.happy_tweets import setting
from bilevel_rl.studies.happy_tweets.assets import AssetError
from bilevel_rl.studies.happy_tweets.figures import read_evaluation
from bilevel_rl.studies.registry import open_study
from lm.tiny_models import llama, tokenizer
from lm.tiny_trainers import PREFERENCES, score

FAST = ["--num-iterations", "4", "--batch-size", "4", "--num-evaluated", "8", "--num-preferences", "3"]
METHODS = ["bilevel", "two-stage", "iterated", "partial-sgd", "nested-loop"]


class MadeUpPeople:
    def rate(self, texts, seed):
        return np.rint(np.asarray(score(texts)) + np.random.default_rng(seed).normal(size=len(texts)))


class MadeUpSetting:
    num_asked_for = 0

    def __init__(self):
        self.model, self.tokenizer, self.annotator = llama(), tokenizer(), MadeUpPeople()
        self.peft_config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        self.judges = {"score": judge, "other": judge}

    def preferences(self, num_pairs, seed):
        type(self).num_asked_for = num_pairs
        return (PREFERENCES * num_pairs)[:num_pairs]


def judge(texts):
    return np.asarray([text.count("b") for text in texts], dtype=float)


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    monkeypatch.setattr(setting, "prepare", lambda size, cache, *, progress: MadeUpSetting())


def call(*arguments):
    code = None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_rows_scores_tweets_and_figures(method, tmp_path):
    code, out, err = call(
        "run", "happy-tweets", "--size", "tiny", "--method", method, *FAST, "--folder", tmp_path / "run"
    )
    assert code is None, err
    folder = RunFolder.open(tmp_path / "run")
    rows = {row["policy"]: row for row in read_evaluation(folder)}
    penalized = {"penalized"} if method in ("bilevel", "nested-loop") else set()
    assert set(rows) == {"before", "lower"} | penalized
    assert rows["before"]["divergence"] == 0
    scores = folder.read_arrays("evaluation")["lower_score"]
    assert len(scores) == 8
    assert rows["lower"]["score"] == pytest.approx(scores.mean())
    assert open_study(folder).summarize(folder) in out
    assert "| before | judge | after | judge |" in out
    assert {path.name for path in folder.figures().iterdir()} >= {"happy_tweets.png", "step_sizes.png"}
    last = folder.read_rows("metrics")[-1]
    assert last["num_iterations"] == 4
    answers = last["num_answers"] + MadeUpSetting.num_asked_for
    assert answers == 3 + 4 * 4, "every method gets the same number of answers"


def test_a_run_goes_on_after_a_kill_with_the_same_bits(tmp_path):
    call("run", "happy-tweets", *FAST, "--checkpoint-every", "0", "--folder", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    killed = RunFolder.open(tmp_path / "killed")
    shutil.rmtree(killed.path / "checkpoints" / "4")
    (killed.path / "evaluation.csv").unlink()
    with (killed.path / "metrics.csv").open("a") as file:
        file.write("0,5,12")  # torn by the kill
    code, _, err = call("resume", killed.path)
    assert code is None, err
    for name in ("metrics.csv", "evaluation.csv", "tweets.md"):
        assert (killed.path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.long
def test_a_folder_does_not_say_where_code_and_models_are_taken_from(tmp_path, monkeypatch):
    caches = []

    def prepare(size, cache, *, progress):
        caches.append(cache)
        return MadeUpSetting()

    monkeypatch.setattr(setting, "prepare", prepare)
    own, folder = str(tmp_path / "own"), tmp_path / "run"
    call("run", "happy-tweets", *FAST, "--cache", own, "--folder", folder)
    config = json.loads((folder / "config.json").read_text())
    assert "cache" not in config["options"]
    config["options"]["cache"] = str(tmp_path / "planted")
    (folder / "config.json").write_text(json.dumps(config))
    for flags in ([], ["--cache", own]):
        code, _, err = call("resume", folder, *flags)
        assert code is None, err
    assert caches == [own, None, own]


@pytest.mark.long
def test_the_studys_figure_has_a_line_and_its_seeds_shade_for_every_method(tmp_path, monkeypatch):
    judge_of = {}
    for method in ("bilevel", "two-stage"):
        for seed in (0, 1):
            path = tmp_path / f"{method}-{seed}"
            call("run", "happy-tweets", *FAST, "--method", method, "--seed", seed, "--folder", path)
            rows = RunFolder.open(path).read_rows("metrics")
            judge_of[method, seed] = np.mean([row["lower_judge_score"] for row in rows])
    figures = []
    monkeypatch.setattr(happy_tweets_study, "save_figure", lambda folder, name, draw: figures.append(draw(LIGHT)))
    rows = condense(tmp_path).curves
    groups = {
        "β = 0.1": {
            method: curves([row for row in rows if row["method"] == method]) for method in ("bilevel", "two-stage")
        }
    }
    draw_happy_tweets_study(RunFolder(tmp_path / "study"), groups)
    above, below = figures[0].axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["bilevel", "two-stage"]
    for number, method in enumerate(("bilevel", "two-stage")):
        seeds = [judge_of[method, seed] for seed in (0, 1)]  # four iterations are one window
        assert above.lines[2 * number].get_ydata() == pytest.approx([np.mean(seeds)])
        assert below.lines[2 * number].get_ydata() == pytest.approx([np.mean(seeds)])
        shade = above.collections[number].get_paths()[0].vertices[:, 1]
        assert (shade.min(), shade.max()) == pytest.approx((min(seeds), max(seeds)))


def test_what_cannot_be_prepared_is_an_error_without_a_traceback(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssetError("smollm2 could not be downloaded: do this")

    monkeypatch.setattr(setting, "prepare", fail)
    code, _, err = call("run", "happy-tweets", *FAST, "--folder", tmp_path / "run")
    assert (code, err.splitlines()[-1]) == (2, "error: smollm2 could not be downloaded: do this")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "-1"], "beta must be finite and not negative, got -1.0"),
        (["--num-evaluated", "1"], "num_evaluated must be at least 2, got 1"),
        (["--penalty", "0"], "penalty must be finite and positive, got 0.0"),
        (["--cpu-devices", "2"], "happy-tweets is not a JAX program"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options_are_errors_before_anything_is_made(options, message, tmp_path):
    code, _, err = call("run", "happy-tweets", *options, "--folder", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()
