"""The page: one question at a time, answered by keys or by buttons. Texts are shown as data, never as HTML."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from nicegui import ui  # pyright: ignore[reportMissingImports]

from bilevel_rl.rating.agreement import Agreement, agreement
from bilevel_rl.rating.desk import Desk, is_swapped
from bilevel_rl.rating.pictures import FOLDER, NAME
from bilevel_rl.rating.store import AnswerStore, Question

SECONDS_BETWEEN_LOOKS = 0.5

LONGEST_NAME = 40

KEYS = """<script>
let question, since;
new MutationObserver(() => {
    const now = document.querySelector('[data-question]')?.dataset.question;
    if (now !== question) [question, since] = [now, performance.now()];
}).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ['data-question']});
document.addEventListener('keydown', event => {
    const shown = document.querySelector('[data-question]');
    if (performance.now() - since < 200) return;  // Nobody has read it: a key was struck twice.
    if (!shown || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('input, textarea')) return;
    if (!shown.dataset.keys.split(' ').includes(event.key)) return;
    event.preventDefault();
    emitEvent('struck', {question: shown.dataset.question, key: event.key});
});
</script>"""

STYLE = """
:root { --paper: #fbfaf7; --ink: #22292f; --soft: #5c6873; --line: #d9d5cc; --card: #ffffff; --accent: #b3541e; }
@media (prefers-color-scheme: dark) {
    :root { --paper: #14181d; --ink: #e8e6e1; --soft: #9aa6b2; --line: #333b44; --card: #1c2229; --accent: #f0965a; }
}
html, body, .q-page-container { background: var(--paper); color: var(--ink); }
.nicegui-content { padding: 0; align-items: stretch; }
.room { box-sizing: border-box; width: 100%; max-width: 1040px; margin: 0 auto; padding: 20px 16px 40px;
        display: flex; flex-direction: column; gap: 16px; font: 17px/1.5 system-ui, sans-serif; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: 14px; align-items: baseline;
         border-bottom: 1px solid var(--line); padding-bottom: 10px; }
.facts:empty { display: none; }
.facts .who { margin-left: auto; }
.instruction { font-size: 22px; font-weight: 600; line-height: 1.3; }
.prompt { color: var(--soft); border-left: 3px solid var(--line); padding-left: 12px; }
.text, .prompt { white-space: pre-wrap; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.choice { display: flex; flex-direction: column; gap: 10px; width: 100%; padding: 18px; text-align: left; font: inherit;
          color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
button.choice, button.key { cursor: pointer; }
button.choice:hover, button.key:hover { border-color: var(--accent); }
button.choice:focus-visible, button.key:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.choice img { width: 100%; max-height: 60vh; object-fit: contain; image-rendering: pixelated; }
.hint { color: var(--soft); font-size: 14px; margin-top: auto; }
.keys { display: flex; flex-wrap: wrap; gap: 10px; }
.key { min-width: 52px; min-height: 48px; padding: 0 14px; font: inherit; color: inherit; background: var(--card);
       border: 1px solid var(--line); border-radius: 10px; }
main > .key { align-self: flex-start; }
@media (pointer: coarse) { .choice .hint { display: none; } }
@media (max-width: 600px) { .pair { grid-template-columns: 1fr; } .facts .who { margin-left: 0; } }
"""


def application(store: AnswerStore, folder: Path) -> FastAPI:
    """The page of a run folder."""
    app, desk = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Desk(store)

    @app.get("/picture/{name}")
    def picture(name: str) -> FileResponse:
        """One that a question shows, and no other file."""
        if not NAME.fullmatch(name) or not store.has_picture(name) or not (folder / FOLDER / name).is_file():
            raise HTTPException(404)
        return FileResponse(folder / FOLDER / name, headers={"x-content-type-options": "nosniff"})

    @ui.page("/", title=f"Rate {folder.absolute().name}", favicon="⚖️")
    async def page():
        """One for each visitor."""
        await Visit(desk).open()

    ui.run_with(app, dark=None, tailwind=False, show_welcome_message=False)
    return app


class Visit:
    """One open page.

    Args:
        desk: hands out questions.
    """

    def __init__(self, desk: Desk):
        self._desk, self._client = desk, ui.context.client
        self._rater = ""
        self._seen: tuple[Any, ...] = ()

    async def open(self):
        """Builds the page; asks for the rater's name unless this browser knows it."""
        ui.add_css(STYLE)
        ui.add_body_html(KEYS)
        with ui.element("div").classes("room"):
            self._facts = ui.element("div").classes("facts")
            self._room = ui.element("main").style("display: contents")
        ui.on("struck", lambda event: self._strike(event.args))
        self._client.on_disconnect(lambda: self._desk.leave(self._client.id))
        await self._client.connected()
        self._rater = _name(await ui.run_javascript("localStorage.getItem('rater')", timeout=10))
        if not self._rater:
            self._ask_name()
        ui.timer(SECONDS_BETWEEN_LOOKS, self._look)

    def _ask_name(self):
        self._facts.clear()
        self._room.clear()
        with self._room:
            ui.label("Who are you?").classes("instruction")
            ui.label("Your answers are kept under this name. It is asked once in this browser.").classes("hint")
            field = ui.input("Name").props(f"autofocus outlined maxlength={LONGEST_NAME}").style("max-width: 340px")
            field.on("keydown.enter", lambda: self._begin(field.value))
            _button("key", "Begin", lambda: self._begin(field.value))

    def _begin(self, given: Any):
        self._rater = _name(given)
        if self._rater:
            ui.run_javascript(f"localStorage.setItem('rater', {json.dumps(self._rater)})")
            self._look()

    def _forget(self):
        self._desk.leave(self._client.id)
        self._rater, self._seen = "", ()
        ui.run_javascript("localStorage.removeItem('rater')")
        self._ask_name()

    def _strike(self, struck: dict[str, str]):
        question = self._seen[0] if self._seen else None
        if question is not None and struck.get("question") == question.digest:
            values = _values_of_keys(question, self._rater)
            if struck.get("key") in values:
                self._answer(question, values[struck["key"]])

    def _answer(self, question: Question, value: float | None):
        self._desk.answer(self._client.id, question.digest, value)
        self._look()

    def _look(self):
        """Draws what has changed. An answer is on disk before the next question is drawn."""
        if not self._rater or not self._client.has_socket_connection:  # A closed page would keep a question for itself.
            return
        store = self._desk.store
        question = self._desk.question(self._client.id, self._rater)
        kind = question.kind if question else self._seen[0].kind if self._seen and self._seen[0] else "pair"
        facts = store.progress(self._rater), agreement(store.values(kind))
        before, self._seen = self._seen, (question, *facts)
        if before[1:] != facts:
            self._draw_facts(*facts)
        if not before or before[0] != question:
            self._room.clear()
            with self._room:
                self._draw(question)

    def _draw_facts(self, progress: Any, agreed: Agreement):
        self._facts.clear()
        with self._facts:
            ui.label(f"{progress.num_answered} answered").props("data-fact=answered")
            ui.label(f"{progress.num_waiting} to go").props("data-fact=waiting")
            ui.label(_agreement(agreed)).props("data-fact=agreement")
            _button("key who", f"{self._rater} · change", self._forget).style(
                "min-height: 0; padding: 2px 10px; font-size: 14px"
            )

    def _draw(self, question: Question | None):
        if question is None:
            ui.label("Nothing to rate just now").classes("instruction")
            ui.label("The next question appears here by itself.").classes("hint")
            return
        values = _values_of_keys(question, self._rater)
        marks = f'data-question={question.digest} data-keys="{" ".join(values)}"'
        usual = "How good is this text?" if question.kind == "score" else "Which one is better?"
        ui.label(question.instruction or usual).classes("instruction").props(marks)
        if question.prompts[0] == question.prompts[1] or question.kind == "score":
            _prompt(question.prompts[0])
        if question.kind == "score":
            with ui.element("div").classes("choice"):
                ui.label(question.first).classes("text")
        else:
            self._draw_pair(question)
        with ui.element("div").classes("keys"):
            for key, value in values.items():
                if question.kind == "score" and value is not None:
                    _button("key", key, lambda value=value: self._answer(question, value))
            _button("key", "s · cannot say", lambda: self._answer(question, None))
            if question.kind == "score":
                ui.label(f"1 is the worst, {question.levels} the best").classes("hint")

    def _draw_pair(self, question: Question):
        sides = [(question.first, question.prompts[0], 1.0), (question.second, question.prompts[1], 0.0)]
        if is_swapped(question, self._rater):
            sides.reverse()
        with ui.element("div").classes("pair"):
            for (shown, prompt, value), arrow in zip(sides, ("← left arrow", "right arrow →"), strict=True):
                button = _clickable("choice", lambda value=value: self._answer(question, value))
                with button:
                    if question.prompts[0] != question.prompts[1]:
                        _prompt(prompt)
                    if question.kind == "pictures":
                        ui.element("img").props(f'src=/picture/{quote(shown, safe="")} alt=""')
                    else:
                        ui.label(shown).classes("text")
                    ui.label(arrow).classes("hint")


def _prompt(text: str):
    if text:
        ui.label(text).classes("prompt")


def _clickable(classes: str, on_click: Any) -> Any:
    return ui.element("button").classes(classes).on("click", on_click)


def _button(classes: str, text: str, on_click: Any) -> Any:
    button = _clickable(classes, on_click)
    with button:
        ui.label(text)
    return button


def _name(given: Any) -> str:
    """A rater's name without what cannot be seen; empty where there is none."""
    text = given if isinstance(given, str) else ""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST_NAME]


def _values_of_keys(question: Question, rater: str) -> dict[str, float | None]:
    """What the keys mean to this rater; `s` is that they cannot say."""
    if question.kind == "score":
        return {str(int(value)): value for value in question.values} | {"s": None}
    left, right = (0.0, 1.0) if is_swapped(question, rater) else (1.0, 0.0)
    return {"ArrowLeft": left, "ArrowRight": right, "s": None}


def _agreement(agreed: Agreement) -> str:
    if agreed.share is None:
        return "agreement: no question has two answers yet"
    kappa = "–" if agreed.kappa is None else f"{agreed.kappa:.2f}"
    return f"agreement {agreed.share:.0%}, κ {kappa}, on {agreed.num_questions} questions"
