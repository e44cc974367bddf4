"""Reports: the sentences, numbers and settings of the files, whatever a folder lacks; nothing unescaped."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import bilevel_rl as brl
from bilevel_rl.report import vega, write_report
from bilevel_rl.report.gather import command_of, gather
from bilevel_rl.report.page import write_report_of_study
from bilevel_rl.report.pictures import CELL, pictures_of, x_pictures_of
from bilevel_rl.report.sentences import answer_of, number, question_of
from bilevel_rl.runs.folder import DamagedFileError, RunFolderError
from hand_outcomes import GRAPH, GRID, hand_folder, hand_outcome, rows

EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch):
    monkeypatch.setattr(vega, "script", lambda: "")


class Parsed(HTMLParser):
    """Text, tags, addresses and chart specifications of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.specs, self.ids, self._in = [], [], {}, [], None
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.addresses += [value for name, value in attrs if name in ("href", "src", "srcset")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self._in = attributes.get("id") if attributes.get("type") == "application/json" else tag

    def handle_data(self, data):
        if self._in and self._in.endswith("-spec"):
            self.specs[self._in] = json.loads(data)
        elif self._in not in ("script", "style"):
            self.text += data
        self._in = None if self._in in ("script", "style") or str(self._in).endswith("-spec") else self._in

    def headings(self):
        return [tag for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]


def test_sentences_hold_the_numbers(tmp_path):
    run = gather(hand_folder(tmp_path, hand_outcome()))
    assert question_of(run) == "How high should the subsidy be?"
    text = answer_of(run)
    assert "Set subsidy from 0 to 0.4 and toll from 0 to −0.2." in text
    assert "falls from 0.9 to 0.6, which is 60 % of the way to the best known, 0.4." in text
    assert "median of 3 seeds" in text


def test_sentences_without_an_outcome_are_of_the_curves(tmp_path):
    run = gather(hand_folder(tmp_path))
    assert question_of(run).startswith("How should x be set")
    assert "The leader’s cost falls from 0.91 to 0.235. These are medians of 3 seeds." in answer_of(run)


def test_numbers_are_short():
    assert [number(v) for v in (0.123456, -2.0, 1e-7)] == ["0.1235", "−2", "1e−07"]


@pytest.mark.parametrize("layout", [None, GRAPH, GRID], ids=["none", "graph", "grid"])
def test_a_report_is_one_file_that_needs_no_other(tmp_path, layout):
    path = write_report([hand_folder(tmp_path, hand_outcome(layout)).path])
    assert path == tmp_path / "report.html"
    page = Parsed(path)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert len(set(page.ids)) == len(page.ids)
    assert page.headings().count("h1") == 1
    charts = [attributes for _, attributes in page.tags if attributes.get("class") == "chart"]
    assert len(charts) == len(page.specs) == (7 if layout is None else 6)
    assert all(chart["aria-label"] and chart["data-spec"] in page.specs for chart in charts)
    svgs = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(svgs) == (0 if layout is None else 2)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in svgs)
    walkers = [attributes for _, attributes in page.tags if attributes.get("class") == "walker"]
    assert len(walkers) == 2 * len(svgs)
    assert "num_seeds" in page.text
    assert "not judged" in page.text
    assert "bilevel-rl run places --num-seeds 3 --no-progress" in page.text


def test_charts_hold_the_data(tmp_path):
    page = Parsed(write_report([hand_folder(tmp_path, hand_outcome()).path]))
    curve = page.specs["run-1-curve-1-spec"]
    first = next(row for row in curve["data"]["values"] if row["series"].startswith("Φ") and row["t"] == 80)
    np.testing.assert_allclose([first[k] for k in ("low", "median", "high")], [0.45, 0.46, 0.47])
    assert curve["layer"][-1]["data"]["values"][0]["best"] == 0.4
    toll = page.specs["run-1-x-chart-spec"]["data"]["values"][1]
    wanted = {"entry": "toll", "run": "run", "start": 0.0, "end": 0.1, "low": -0.2, "high": 0.1, "best": 0.0}
    assert toll == wanted
    # 1 % of 0.5 up: −0.005 from the slope, and 0.5 · 400 · 0.005² from the curvature.
    changes = {
        (r["name"], r["series"]): r["value"] for r in page.specs["run-1-sensitivity-chart-spec"]["data"]["values"]
    }
    assert changes == pytest.approx(
        {("subsidy", "1 % up"): 0.02, ("subsidy", "1 % down"): -0.02, ("toll", "1 % up"): 0, ("toll", "1 % down"): 0.01}
    )


def test_what_people_wrote_is_escaped(tmp_path):
    config = {"experiment": EVIL, "options": {EVIL: EVIL}}
    outcome = hand_outcome(GRAPH, question=EVIL, states=(EVIL, "park", "office"))
    folder = hand_folder(tmp_path / "<b>run", outcome, config=config)
    folder.write_text("table.md", EVIL)
    (folder.path / "confidence.json").write_text(json.dumps({EVIL: EVIL}))
    for page in (write_report([folder.path]), write_report([folder.path, folder.path], tmp_path / "two.html")):
        text = page.read_text()
        assert EVIL not in text
        assert "<script>alert" not in text
        assert "<b>run" not in text
        assert "&lt;script&gt;alert" in text


def test_runs_are_laid_side_by_side(tmp_path):
    one, two = (hand_folder(tmp_path / name / "run", hand_outcome()) for name in "ab")
    page = Parsed(write_report([one.path, two.path], tmp_path / "both.html"))
    assert page.text.count("run (1)") >= 1
    series = {row["series"] for row in page.specs["comparison-1-spec"]["data"]["values"]}
    assert series == {"run (1)", "run (2)"}
    assert len(page.specs["comparison-2-spec"]["data"]["values"]) == 4
    assert page.headings().count("h1") == 1


def test_runs_of_other_x_are_not_compared_entry_by_entry(tmp_path):
    other = dataclasses.replace(hand_outcome(), names=brl.Names(states=("a", "b", "c")))
    folders = hand_folder(tmp_path / "a", hand_outcome()), hand_folder(tmp_path / "b", other)
    page = Parsed(write_report([folder.path for folder in folders], tmp_path / "both.html"))
    assert "comparison-2-spec" not in page.specs


def test_language_model_runs_show_their_texts_and_scores(tmp_path):
    folder = hand_folder(tmp_path, metric_rows=rows(1, ("lower_mean_reward", "lower_judge_score")))
    folder.write_text("tweets.md", "| before | after |\n|---|---|\n| so *sad* | so happy |\n")
    page = Parsed(write_report([folder.path]))
    assert "The judge's score of the follower's texts falls from 0.95 to 0.275." in page.text.replace("’", "'")
    assert "so happy" in page.text
    assert "tweets" in page.text
    assert ("th", {"scope": "col"}) in page.tags


def test_pictures_of_a_study_are_put_in_with_a_still_for_who_wants_no_motion(tmp_path):
    folder = hand_folder(tmp_path)
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    pictures[0].save(folder.figures() / "follower_walks.gif", save_all=True, append_images=pictures[1:])
    pictures[0].save(folder.figures() / "learning_curves.png")  # Shown as a chart.
    (folder.figures() / "large.png").write_bytes(b"x" * 3_000_000)
    page = Parsed(write_report([folder.path]))
    (source,) = [attributes for tag, attributes in page.tags if tag == "source"]
    assert source["media"] == "(prefers-reduced-motion: reduce)"
    assert source["srcset"].startswith("data:image/png")
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["follower walks"]
    assert "large.png" in page.text


def test_confidence_of_logged_data_is_shown_where_it_is_there(tmp_path):
    folder = hand_folder(tmp_path, hand_outcome())
    (folder.path / "confidence.json").write_text('{"low": 0.35, "high": 0.6}')
    assert "What the logged data allow to say" in write_report([folder.path]).read_text()


def test_a_study_of_many_runs_says_itself_what_it_asks_and_answers(tmp_path):
    folder = hand_folder(tmp_path)
    page = write_report_of_study(folder, "Which <b> is best?", "The second.")
    text = Parsed(page).text
    assert "Which <b> is best?" in text
    assert "The second." in text
    (folder.path / "summary.json").write_text(json.dumps({"question": "Which?"}))
    with pytest.raises(DamagedFileError, match=r"summary\.json is damaged: .*answer"):
        write_report([folder.path])


def test_what_fresh_followers_make_of_the_reward_is_shown_where_it_is_known(tmp_path):
    folder = hand_folder(tmp_path, hand_outcome())
    assert "Does the reward teach others?" not in write_report([folder.path]).read_text()
    costs = {"before": [1.0, 0.9, 2.0], "after": [0.4, 0.6, 0.5]}
    (folder.path / "fresh_followers.json").write_text(json.dumps({"num_transitions": 64_000, "own": 0.2} | costs))
    text = " ".join(Parsed(write_report([folder.path])).text.split())
    assert "followers trained from scratch3, on 64,000 transitions each" in text
    assert "with the learned reward, median0.5 (0.4 to 0.6)" in text
    assert "share of that gain62 %" in text


def test_a_folder_from_python_says_which_call_made_it(tmp_path):
    began = {"experiment": "python-run", "options": {"call": "bilevel_rl.run", "iterations": 40}}
    folder = hand_folder(tmp_path, config=began)
    identity = {"algorithm": "ExactDescent", "num_seeds": 3, "log_every": 10, "digests": {"reward": "ab12"}}
    folder.note_identity(identity)
    text = write_report([folder.path]).read_text()
    assert "brl.run(ExactDescent(problem, …), key, num_iterations=40, num_seeds=3, log_every=10)" in text
    assert "ab12" not in text
    assert "versions.jax" in text


def test_command_lines():
    options = {"size": 4, "walls": [[1, 2], [3, 4]], "home": None, "run": {"tensorboard": True}, "empty": []}
    made = command_of({"experiment": "goal-position", "options": options}, {})
    assert made == "bilevel-rl run goal-position --size 4 --walls 1 2 3 4 --tensorboard"
    assert command_of({"experiment": "compare-wind", "options": {}}, {}) == "bilevel-rl compare wind"
    assert command_of({"command": ["bilevel-rl", "run", "my tolls.py:p"]}, {}) == "bilevel-rl run 'my tolls.py:p'"
    assert command_of({"command": "make it"}, {}) == "make it"
    assert command_of({}, {}) == ""


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="is not a run folder"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="folders must hold at least one"):
        write_report([])
    folder = hand_folder(tmp_path / "run", hand_outcome())
    (folder.path / "outcome.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"outcome\.json"):
        write_report([folder.path])


# Pictures.


def test_grid_cells_shades_and_ends():
    before, after = pictures_of(hand_outcome(GRID))
    cells = {(place.x / CELL, place.y / CELL): place for place in before.places}
    assert set(cells) == {(0, 0), (1, 0), (1, 1)}
    # 0.6 of the time is the darkest of both pictures; the end, where nothing is done, is pale and outlined.
    assert [cells[at].shade for at in ((0, 0), (1, 0), (1, 1))] == pytest.approx([1.0, 0.5, 0.0])
    assert [place.shade for place in after.places] == pytest.approx([1 / 3, 0.5, 0.0])
    assert cells[1, 1].is_end
    assert cells[0, 0].title == "home: 60.0% of the time"
    right, down = before.arrows
    assert (right.x2 > right.x1, right.y2) == (True, right.y1)
    assert (down.y2 > down.y1, down.x2) == (True, down.x1)


def test_both_directions_of_a_road_are_one_line():
    before, _ = pictures_of(hand_outcome(GRAPH))
    widths = sorted(line.width for line in before.edges)
    assert widths == pytest.approx([8 * 0.2 / 0.5, 8.0])
    assert before.arrows == ()
    assert [place.label for place in before.places] == ["home", "park", "office"]


def test_a_walker_waits_hidden_where_a_state_lies_nowhere():
    layout = brl.GraphLayout([(0, 0), (2, 0), None])
    walk = pictures_of(hand_outcome(layout))[0].walks[0]
    assert [seen for *_, seen in walk.frames] == [1, 1, 0, 0]
    assert walk.frames[1][1:3] == walk.frames[2][1:3] == walk.frames[3][1:3]


def test_x_is_drawn_on_a_grid_where_it_has_an_entry_for_each_cell():
    assert x_pictures_of(hand_outcome(GRID)) == ()
    names = brl.Names(layout=brl.GridLayout([(0, 0), (0, 1)]))
    before, after = x_pictures_of(dataclasses.replace(hand_outcome(), names=names, exact=None))
    assert [place.shade for place in before.places] == [0, 0]
    assert [place.label for place in after.places] == [".4", ".1"]
    assert [place.shade for place in after.places] == pytest.approx([1, 0.25])
